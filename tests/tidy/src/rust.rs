//! Just enough Rust to tell code from comments and strings, and test code from the rest.

/// Returns `source` with every comment and every string or character literal blanked out, so that
/// lines keep their numbers and a search finds code only.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' if !follows_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => char_end(bytes, at),
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole literals and comments were replaced, by spaces")
}

/// Index of the first line (from 0) of the inline test module, or the number of lines if there is
/// none. By convention the test module is the last item of its file.
pub(crate) fn tests_start(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let is_start = |pair: &&[&str]| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ")
    };
    let found = lines
        .windows(2)
        .enumerate()
        .find(|(_, pair)| is_start(pair));
    found.map_or(lines.len(), |(index, _)| index)
}

/// Whether all of the file at `path` is test code: below a `tests` directory, or `tests.rs` itself.
pub(crate) fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Every item that `code` (see [`code_only`]) defines: (line from 1, keyword, name).
pub(crate) fn definitions(code: &str) -> Vec<(usize, &str, &str)> {
    const KEYWORDS: &[&str] = &["struct", "enum", "union", "trait", "type", "fn", "mod"];
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut words = line
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let Some(keyword) = KEYWORDS.iter().find(|keyword| **keyword == word) else {
                continue;
            };
            if let Some(name) = words.next() {
                found.push((index + 1, *keyword, name));
            }
        }
    }
    found
}

/// Splits `CamelCase` and `snake_case` into lower-case words.
pub(crate) fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut boundary = true;
    for c in name.chars() {
        if c == '_' {
            boundary = true;
            continue;
        }
        if boundary || c.is_uppercase() {
            words.push(String::new());
        }
        boundary = false;
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// Lines (from 1) of `code` in which `name` stands as a whole word directly before `suffix`.
pub(crate) fn uses<'a>(code: &'a str, name: &'a str, suffix: &'a str) -> Vec<usize> {
    let wanted = format!("{name}{suffix}");
    let has = |line: &str| {
        line.match_indices(&wanted)
            .any(|(at, _)| !follows_word(line.as_bytes(), at))
    };
    code.lines()
        .enumerate()
        .filter(|(_, line)| has(line))
        .map(|(index, _)| index + 1)
        .collect()
}

/// Whether the byte before `at` belongs to an identifier.
fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// End of the line that contains `at`.
fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| at + length)
}

/// End of a block comment that starts at `at`; block comments nest.
fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0;
    let mut here = at;
    while here < bytes.len() {
        if bytes[here..].starts_with(b"/*") {
            depth += 1;
            here += 2;
        } else if bytes[here..].starts_with(b"*/") {
            depth -= 1;
            here += 2;
            if depth == 0 {
                return here;
            }
        } else {
            here += 1;
        }
    }
    bytes.len()
}

/// End of the ordinary string that starts at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut here = at + 1;
    while here < bytes.len() {
        match bytes[here] {
            b'\\' => here += 2,
            b'"' => return here + 1,
            _ => here += 1,
        }
    }
    bytes.len()
}

/// End of the raw string (`r"…"`, `r#"…"#`, `br"…"`) that starts at `at`, if one does.
fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut here = at + usize::from(bytes[at] == b'b');
    if bytes.get(here) != Some(&b'r') {
        return None;
    }
    here += 1;
    let hashes = bytes[here..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    here += hashes;
    if bytes.get(here) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = &bytes[here + 1..];
    let length = body.windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| here + 1 + length + close.len()))
}

/// End of the character literal at `at`, or just behind the quote if it begins a lifetime.
fn char_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at + 1..];
    if rest.first() == Some(&b'\\') {
        let close = rest.iter().skip(2).position(|byte| *byte == b'\'');
        return close.map_or(bytes.len(), |length| at + 1 + 2 + length + 1);
    }
    // A character is at most four bytes; a lifetime has no quote behind its first character.
    let width = match rest.first() {
        Some(byte) if *byte >= 0xF0 => 4,
        Some(byte) if *byte >= 0xE0 => 3,
        Some(byte) if *byte >= 0xC0 => 2,
        _ => 1,
    };
    if rest.get(width) == Some(&b'\'') {
        at + 1 + width + 1
    } else {
        at + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let source = "let a = \"x // y\"; // TODO\n\
            let b = r#\"q\"q\"#; /* /* */ z */ c('\"', 'é', '\\'');\nfn f<'a>() {}\n";
        let code = code_only(source);
        assert_eq!(code.lines().count(), 3);
        for gone in ["TODO", "x", "q", "z", "é", "\""] {
            assert!(!code.contains(gone), "{gone} is left in {code}");
        }
        assert!(
            code.contains("let b =") && code.contains("fn f< a>() {}"),
            "{code}"
        );
    }

    #[test]
    fn the_test_module_is_found() {
        assert_eq!(tests_start("fn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), 1);
        assert_eq!(tests_start("fn a() {}\n"), 1);
        assert!(
            is_test_file("crates/feed/tests/main.rs") && !is_test_file("crates/feed/src/lib.rs")
        );
    }

    #[test]
    fn definitions_are_found_with_their_names() {
        let found = definitions("pub struct Foo<T>(T);\n    pub(crate) async fn bar() {}\n");
        assert_eq!(found, [(1, "struct", "Foo"), (2, "fn", "bar")]);
        assert_eq!(words("LeaseManager2"), ["lease", "manager2"]);
        assert_eq!(words("string_utils"), ["string", "utils"]);
    }

    #[test]
    fn a_use_is_a_whole_word() {
        assert_eq!(
            uses("a::sleep(x)\nasleep(x)\nsleep (x)\n", "sleep", "("),
            [1]
        );
    }
}
