//! Whether what came is what the page shows.

/// Whether each line fits; `…` alone stands for any lines.
pub fn fits(shown: &[String], came: &[String]) -> bool {
    match (shown.split_first(), came.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first.trim() == "…" => {
            (0..=came.len()).any(|skip| fits(rest, &came[skip..]))
        }
        (Some((first, rest)), Some((line, more))) => line_fits(first, line) && fits(rest, more),
        _ => false,
    }
}

/// Whether each word fits; `…` alone stands for any words.
pub fn line_fits(shown: &str, came: &str) -> bool {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    words_fit(&words(shown), &words(came))
}

fn words_fit(shown: &[String], came: &[String]) -> bool {
    match (shown.split_first(), came.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "…" => {
            (0..=came.len()).any(|skip| words_fit(rest, &came[skip..]))
        }
        (Some((first, rest)), Some((word, more))) => word_fits(first, word) && words_fit(rest, more),
        _ => false,
    }
}

fn word_fits(shown: &str, came: &str) -> bool {
    match shown.split_once('…') {
        None => shown == came,
        Some((head, rest)) => came.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| word_fits(rest, &tail[at..]))
        }),
    }
}

/// What came, for the page: `…` for what is different each time. Lines that fit stay as they are shown.
pub fn for_the_page(shown: &[String], came: &[String]) -> Vec<String> {
    let general: Vec<String> = came.iter().map(|line| generalised(line)).collect();
    let kept = |(index, line): (usize, &String)| match shown.get(index) {
        Some(old) if line_fits(old, &came[index]) => old.clone(),
        _ => line.clone(),
    };
    general.iter().enumerate().map(kept).collect()
}

fn generalised(line: &str) -> String {
    let is_of = |text: &str, legal: fn(&u8) -> bool| text.bytes().all(|byte| legal(&byte));
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let id = word.len() == 26 && is_of(word, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        let digest = word.len() == 64 && is_of(word, u8::is_ascii_hexdigit);
        let time = word.len() >= 20
            && word.ends_with('Z')
            && word.as_bytes()[4] == b'-'
            && word.as_bytes()[10] == b'T';
        match (id, digest, time) {
            (true, ..) => out.push_str("01…"),
            (_, true, _) => out.push('…'),
            (.., true) => out.push_str("20…Z"),
            _ => out.push_str(word),
        }
        word.clear();
    };
    let (mut before, mut after) = (0, 0);
    for (at, c) in line.char_indices() {
        if c.is_ascii_alphanumeric() || "-:.".contains(c) {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            // In a column of a table what comes next stays where it is.
            if c == ' ' && line[at..].starts_with("  ") {
                let missing = (at - before).saturating_sub(out.chars().count() - after);
                out.extend(std::iter::repeat_n(' ', missing));
            }
            out.push(c);
            (before, after) = (at + c.len_utf8(), out.chars().count());
        }
    }
    flush(&mut word, &mut out);
    out.trim_end().to_owned()
}

#[test]
fn an_ellipsis_stands_for_what_is_different_each_time_and_for_nothing_else() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let fits = |shown: &str, came: &str| fits(&lines(shown), &lines(came));
    assert!(fits("task  01…  open", "task 01JZX0Q4V9N3F7T2K8M5R6W1YB    open"));
    assert!(fits("a … d", "a b c d") && fits("a …", "a"));
    assert!(fits("a\n…\nd", "a\nb\nc\nd"));
    assert!(!fits("a", "b") && !fits("a", "a\nb") && !fits("a\nb", "a") && !fits("a b", "a"));
    assert!(!fits("01…", "02X") && !fits("until 20…Z", "until never"));
    let came = lines("x 01JZX0Q4V9N3F7T2K8M5R6W1YB at 2026-01-02T03:04:05Z, ok\nsame");
    assert_eq!(for_the_page(&lines("y\nsame"), &came), ["x 01… at 20…Z, ok", "same"]);
    let table = lines("ID                          AT\n01JZX0Q4V9N3F7T2K8M5R6W1YB  now");
    assert_eq!(
        for_the_page(&[], &table)[1],
        "01…                         now",
        "columns stay where they are"
    );
}
