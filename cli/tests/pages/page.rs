//! A page, taken apart into what is run. Line numbers count from 1, for messages and for writing back.

/// One part of a page that does something.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Documents to apply.
    Apply { line: usize, yaml: String },
    /// A file to write.
    File { name: String, text: String },
    /// What workloads do.
    Workloads { line: usize, lines: Vec<String> },
    /// One command of a console block.
    Command(Command),
}

/// A command and what is shown below it.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Where it stands.
    pub line: usize,
    /// The admin who types it.
    pub admin: String,
    /// For the shell.
    pub typed: String,
    /// What the page shows, without the exit code.
    pub shown: Vec<String>,
    /// Where that begins, and how many lines of the page it takes, `[exit N]` included.
    pub place: (usize, usize),
    /// What the shell is told.
    pub exit: i32,
}

/// Reads a page. What looks like a block and is none is a panic: it would silently not run.
pub fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((line, opening)) = lines.next() {
        if let Some(rest) = opening.strip_prefix("<!-- run") {
            assert!(rest.is_empty(), "line {line}: `<!-- run` stands on a line of its own");
            let inner = lines.by_ref().map(|(_, inner)| inner.trim()).take_while(|inner| *inner != "-->");
            let inner = inner.filter(|inner| !inner.is_empty()).map(str::to_owned).collect();
            parts.push(Part::Workloads { line, lines: inner });
        } else if let Some(info) = opening.strip_prefix("```") {
            let inner: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, inner)| *inner != "```").collect();
            let text = || inner.iter().map(|(_, line)| format!("{line}\n")).collect::<String>();
            match (info.split_once(" file="), info) {
                (Some((_, name)), _) => parts.push(Part::File { name: name.to_owned(), text: text() }),
                (None, "yaml") => parts.push(Part::Apply { line, yaml: text() }),
                (None, "console") => parts.extend(commands(line, &inner).into_iter().map(Part::Command)),
                (None, _) => {}
            }
        }
    }
    parts
}

fn commands(block: usize, lines: &[(usize, &str)]) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for (number, line) in lines {
        if let Some((admin, typed)) = typed(line).filter(|_| !goes_on) {
            let place = (number + 1, 0);
            let (admin, typed) = (admin.to_owned(), typed.to_owned());
            commands.push(Command { line: *number, admin, typed, shown: Vec::new(), place, exit: 0 });
        } else {
            let command = commands.last_mut();
            let command = command.unwrap_or_else(|| panic!("line {block}: the block begins with no command"));
            if goes_on {
                command.typed = format!("{}\n{line}", command.typed);
                command.place.0 = number + 1;
            } else {
                command.shown.push((*line).to_owned());
                command.place.1 += 1;
            }
        }
        let typing = commands.last().is_some_and(|command| command.shown.is_empty());
        goes_on = typing && line.ends_with('\\');
    }
    for command in &mut commands {
        let exit = command.shown.last().and_then(|last| last.strip_prefix("[exit ")?.strip_suffix(']'));
        if let Some(exit) = exit {
            command.exit = exit.parse().unwrap_or_else(|_| panic!("line {}: no exit code", command.line));
            command.shown.pop();
        }
    }
    commands
}

/// `$ …` is ann's, `bob$ …` is bob's.
fn typed(line: &str) -> Option<(&str, &str)> {
    let (admin, typed) = line.split_once("$ ")?;
    let is_name = admin.bytes().all(|byte| byte.is_ascii_lowercase());
    is_name.then_some((if admin.is_empty() { "ann" } else { admin }, typed))
}

#[test]
fn a_page_is_taken_apart_as_its_head_says() {
    let text = "\
# Page

```yaml
kind: X
```
```yaml file=a.yaml
kind: Y
```
<!-- run
task T by spiffe://example.org/a on n1: s

-->
```console
$ dayfly \\
  a $ x
one
bob$ dayfly b
two
[exit 3]
```
```python
$ dayfly no
```
";
    let command = |line, admin: &str, typed: &str, shown: &str, place, exit| {
        let (admin, typed, shown) = (admin.to_owned(), typed.to_owned(), vec![shown.to_owned()]);
        Part::Command(Command { line, admin, typed, shown, place, exit })
    };
    assert_eq!(
        parts(text),
        [
            Part::Apply { line: 3, yaml: "kind: X\n".into() },
            Part::File { name: "a.yaml".into(), text: "kind: Y\n".into() },
            Part::Workloads { line: 9, lines: vec!["task T by spiffe://example.org/a on n1: s".into()] },
            command(14, "ann", "dayfly \\\n  a $ x", "one", (16, 1), 0),
            command(17, "bob", "dayfly b", "two", (18, 2), 3),
        ]
    );
}
