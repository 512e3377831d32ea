//! `DAYFLY_SECTION__KEY` over the file: `DAYFLY_LIMITS__LAPSE_AFTER=10s` sets `limits.lapse_after`.

use toml::{Table, Value};

use super::ConfigError;

const PREFIX: &str = "DAYFLY_";

/// Lays every variable with two underscores over the table. A value is read as TOML, else taken as text.
pub(super) fn apply(
    table: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (variable, text) in environment {
        let Some(path) = variable.strip_prefix(PREFIX).filter(|path| path.contains("__")) else { continue };
        let keys: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        set(table, &keys, value(&text))
            .map_err(|problem| ConfigError::Overlay { variable: variable.clone(), problem })?;
    }
    Ok(())
}

fn set(table: &mut Table, keys: &[String], value: Value) -> Result<(), String> {
    match keys {
        [] => Err("names no key".to_owned()),
        [last] => {
            table.insert(last.clone(), value);
            Ok(())
        }
        [first, rest @ ..] => {
            match table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new())) {
                Value::Table(inner) => set(inner, rest, value),
                _ => Err(format!("{first} is not a section")),
            }
        }
    }
}

fn value(text: &str) -> Value {
    let whole = toml::from_str::<Table>(&format!("value = {text}")).ok();
    whole.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}
