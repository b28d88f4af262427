//! Stories of a stage, in files that hold what goes in and what was recorded to come out.

use std::path::Path;

/// Plays each story in `testdata/` of the crate at `manifest_dir` and compares what it tells with the
/// file; with `UPDATE` in the environment, writes the file instead.
///
/// # Panics
/// If a story tells something else than was recorded, or there is none.
pub fn replay(manifest_dir: &str, play: impl Fn(&str) -> String) {
    let stories = Path::new(manifest_dir).join("testdata");
    let mut played = 0;
    for story in std::fs::read_dir(&stories).expect("a crate with scenarios has `testdata/`") {
        let path = story.expect("`testdata/` can be listed").path();
        let recorded = std::fs::read_to_string(&path).expect("a story is text");
        let told = play(&recorded);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, told).expect("a story can be recorded");
        } else {
            assert_eq!(
                told,
                recorded,
                "{}: `make scenarios` records",
                path.display()
            );
        }
        played += 1;
    }
    assert!(played > 0, "no stories in {}", stories.display());
}
