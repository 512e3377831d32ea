//! `--scope S --param k=v …`: a parameter belongs to the scope before it, so their order on the command line counts.

use std::collections::HashMap;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use dayfly_client::v1::ScopeRequest;

/// Every scope and parameter value a task may ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ceiling(pub Vec<ScopeRequest>);

impl FromArgMatches for Ceiling {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut lines: Vec<ScopeRequest> = Vec::new();
        for (_, said) in in_order(matches) {
            match said {
                Said::Scope(name) => {
                    lines.push(ScopeRequest { scope: name.clone(), parameters: HashMap::new() })
                }
                Said::Param((name, value)) => {
                    let Some(line) = lines.last_mut() else {
                        return Err(usage(format!(
                            "--param {name}={value} stands before any --scope; put it behind its scope"
                        )));
                    };
                    if line.parameters.insert(name.clone(), value.clone()).is_some() {
                        return Err(usage(format!(
                            "--param {name} is given twice for --scope {}",
                            line.scope
                        )));
                    }
                }
            }
        }
        Ok(Ceiling(lines))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Ceiling {
    fn augment_args(command: Command) -> Command {
        let scope = Arg::new("scope")
            .long("scope")
            .short('s')
            .value_name("SCOPE")
            .action(ArgAction::Append)
            .value_parser(clap::builder::NonEmptyStringValueParser::new())
            .help("A scope the task may ask for; may be given more than once");
        let param = Arg::new("param")
            .long("param")
            .short('p')
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .value_parser(key_value)
            .help("A parameter of the scope before it; may be given more than once");
        command.arg(scope).arg(param)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

enum Said<'a> {
    Scope(&'a String),
    Param(&'a (String, String)),
}

fn in_order(matches: &ArgMatches) -> Vec<(usize, Said<'_>)> {
    let indices = |name| matches.indices_of(name).into_iter().flatten();
    let scopes = matches.get_many("scope").into_iter().flatten().map(Said::Scope);
    let params = matches.get_many("param").into_iter().flatten().map(Said::Param);
    let mut said: Vec<(usize, Said<'_>)> =
        indices("scope").zip(scopes).chain(indices("param").zip(params)).collect();
    said.sort_by_key(|(index, _)| *index);
    said
}

/// Reads `key=value`; the value may hold further equals signs, and may be empty.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

fn usage(message: String) -> Error {
    Error::raw(ErrorKind::ArgumentConflict, format!("{message}\n"))
}
