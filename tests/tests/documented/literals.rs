//! Finds the string literals of a Rust source file, as far as the tests of printed commands need it.

/// Returns the values of the string literals in `source`; comments and character literals are skipped.
pub(crate) fn string_literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\''") || rest.starts_with("'\\\\'") {
            rest = &rest[rest[1..].find('\'').map_or(1, |end| end + 2)..];
        } else if first == '"' {
            let (value, after) = literal(&rest[1..]);
            found.push(value);
            rest = after;
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

/// Reads a literal after its opening quote; returns its value and the text behind its closing quote.
fn literal(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text.char_indices();
    while let Some((at, char)) = rest.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => match rest.next() {
                Some((_, 'n')) => value.push('\n'),
                // The literal goes on after the white space.
                Some((_, '\n')) => {
                    let (more, after) = literal(rest.as_str().trim_start());
                    return (value + &more, after);
                }
                Some((_, other)) => value.push(other),
                None => break,
            },
            other => value.push(other),
        }
    }
    (value, "")
}
