//! Where figures go: to the output, and into the parts of a page that are the tool's own.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::Part;
use crate::table::Table;

/// Returns a part's section in Markdown.
pub(crate) fn section(part: Part, quick: bool, table: &Table) -> String {
    let mut text = format!("### {}\n\n", part.title());
    let quick = if quick { " --quick" } else { "" };
    // Writing to a string cannot fail.
    let _fits = writeln!(
        text,
        "`target/release/headcount-bench --only {}{quick}`; {}.\n\n{}",
        part.name(),
        machine(),
        table.markdown()
    );
    text
}

/// Replaces a part's section in a page, or adds it at the end; everything else stays as it is.
///
/// # Errors
/// If the page cannot be read or written, or its marks are broken.
pub(crate) fn write(page: &Path, part: Part, section: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let text = replaced(&text, &part.name(), section)?;
    std::fs::write(page, text).with_context(|| page.display().to_string())
}

fn replaced(text: &str, name: &str, section: &str) -> Result<String> {
    let begin = format!("<!-- make bench writes: {name} -->\n");
    let end = format!("<!-- end of {name} -->\n");
    let block = format!("{begin}{}\n{end}", section.trim_end());
    let Some((before, rest)) = text.split_once(&begin) else {
        return Ok(format!("{}\n\n{block}", text.trim_end()));
    };
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("the page lacks {end:?}"))?;
    Ok(format!("{before}{block}{after}"))
}

/// What it ran on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().nth(1).unwrap_or("unknown");
    format!("{cores} cores, load {load} over the last five minutes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_rest_of_the_page_stays() -> Result<()> {
        let page = "# Page\n\nBy hand.\n";
        let page = replaced(page, "idle", "### Idle\n\none\n")?;
        let page = replaced(&page, "wan", "### Wan\n")?;
        let page = format!("{page}\nMore by hand.\n");
        let again = replaced(&page, "idle", "### Idle\n\ntwo\n")?;
        assert_eq!(again, page.replace("one", "two"));
        assert!(again.contains("By hand.") && again.ends_with("More by hand.\n"));
        assert!(replaced("<!-- make bench writes: idle -->\n", "idle", "").is_err());
        Ok(())
    }
}
