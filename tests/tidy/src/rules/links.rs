//! Relative links between documents lead somewhere: to a file, a directory, or a heading.

use crate::{Fault, Tree};

/// Checks every Markdown document.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts(".md") {
        for (line, target) in links(text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let Some(resolved) = resolve(path, file) else {
                faults.push(Fault::new(
                    path,
                    line,
                    format!("link `{target}` leaves the repository"),
                ));
                continue;
            };
            if !tree.exists(&resolved) {
                faults.push(Fault::new(
                    path,
                    line,
                    format!("link `{target}`: no such file"),
                ));
            } else if !anchor.is_empty() && resolved.ends_with(".md") {
                let document = tree.text(&resolved).unwrap_or_default();
                if !anchors(document).iter().any(|known| known == anchor) {
                    faults.push(Fault::new(
                        path,
                        line,
                        format!("link `{target}`: no such heading"),
                    ));
                }
            }
        }
    }
    faults
}

/// Lines of a document: (line from 1, whether it is inside a fenced block, text).
pub(crate) fn fenced(text: &str) -> impl Iterator<Item = (usize, bool, &str)> {
    let mut inside = false;
    text.lines().enumerate().map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        (index + 1, inside && !fence, line)
    })
}

/// Relative link targets outside fenced blocks and code spans: (line from 1, target).
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (line, inside, content) in fenced(text) {
        for piece in content.split('`').step_by(2).filter(|_| !inside) {
            // A link's text may itself hold code, so its `](` may open a later piece.
            for (at, _) in piece.match_indices("](") {
                let rest = &piece[at + 2..];
                let target = rest.split([')', ' ']).next().unwrap_or_default();
                if !target.contains("://") && !target.starts_with("mailto:") {
                    found.push((line, target));
                }
            }
        }
    }
    found
}

/// The path that `target` means in the document at `path`; `None` if it is outside the repository.
fn resolve(path: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(path.to_owned());
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        return None;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The anchors that a Markdown renderer makes of the headings of `text`.
fn anchors(text: &str) -> Vec<String> {
    let headings = fenced(text).filter(|(_, inside, line)| !inside && line.starts_with('#'));
    let slug = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(|(_, _, line)| slug(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        let files = [
            ("deploy/README.md", text),
            ("README.md", "# Top\n## How it works, in short\n"),
        ];
        check(&Tree::of(&files)).len()
    }

    #[test]
    fn living_links_pass() {
        assert_eq!(
            faults(
                "[a](../README.md) [b](../README.md#how-it-works-in-short) [c](https://x.org/y)\n"
            ),
            0
        );
        assert_eq!(
            faults("[`code`](../deploy) [d](.) `[no](link.md)`\n```\n[no](link.md)\n```\n"),
            0
        );
        assert_eq!(faults("# Here\n[a](#here)\n"), 0);
    }

    #[test]
    fn dead_links_are_refused() {
        assert_eq!(faults("[a](../ARCHITECTURE.md)\n"), 1);
        assert_eq!(faults("[`a`](missing.md)\n"), 1);
        assert_eq!(faults("[a](../README.md#nowhere)\n"), 1);
        assert_eq!(faults("[a](../../outside.md)\n"), 1);
        assert_eq!(faults("[a](/README.md)\n"), 1);
    }
}
