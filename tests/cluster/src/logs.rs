//! A test with logs of its own: what goes wrong in the background fails it, and is shown with it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use headcount_node::telemetry::log_filter;
use tracing::dispatcher::{DefaultGuard, Dispatch};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

/// Lines that are kept to be shown when a test fails.
const LINES_MAX: usize = 4_000;

/// Chooses the lines that are kept, as the setting `telemetry.log` does; the default is `info`.
const VARIABLE: &str = "HEADCOUNT_TEST_LOG";

thread_local! {
    /// Whose test this thread works for; panics of its tasks go there.
    static MINE: RefCell<Option<(Logs, DefaultGuard)>> = const { RefCell::new(None) };
}

/// What one test's nodes wrote.
#[derive(Clone, Debug, Default)]
pub struct Logs(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    lines: Mutex<VecDeque<String>>,
    errors: Mutex<Vec<String>>,
    expected: Mutex<Vec<String>>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logs {
    /// Says that errors with `part` in them belong to the story.
    pub fn expect_error(&self, part: &str) {
        lock(&self.0.expected).push(part.to_owned());
    }

    /// Returns the errors so far, expected or not.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        lock(&self.0.errors).clone()
    }

    /// Returns whether a line that is kept has `part` in it.
    #[must_use]
    pub fn contain(&self, part: &str) -> bool {
        lock(&self.0.lines).iter().any(|line| line.contains(part))
    }

    fn line(&self, level: Level, line: &str) {
        let line = line.trim_end().to_owned();
        if level == Level::ERROR {
            lock(&self.0.errors).push(line.clone());
        }
        let mut lines = lock(&self.0.lines);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Adds what a process wrote to its standard error.
    pub(crate) fn foreign_line(&self, name: &str, line: &str) {
        let bad = line.contains("ERROR") || line.contains("panicked");
        let level = if bad { Level::ERROR } else { Level::INFO };
        self.line(level, &format!("[{name}] {line}"));
    }

    fn unexpected(&self) -> Vec<String> {
        let expected = lock(&self.0.expected);
        let errors = self.errors().into_iter();
        errors
            .filter(|error| !expected.iter().any(|part| error.contains(part)))
            .collect()
    }

    fn show(&self) {
        let mut out = io::stderr().lock();
        for line in lock(&self.0.lines).iter() {
            // Nobody can be told that the terminal is gone.
            drop(writeln!(out, "{line}"));
        }
    }

    fn dispatch(&self) -> Dispatch {
        let filter = std::env::var(VARIABLE).unwrap_or_else(|_| "info".to_owned());
        let filter = log_filter(&filter).expect("the variable holds a filter of log lines");
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(self.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        Dispatch::new(subscriber)
    }
}

/// Where one line is written to.
#[derive(Debug)]
pub struct Line {
    logs: Logs,
    level: Level,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.logs
            .line(self.level, &String::from_utf8_lossy(&self.text));
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            logs: self.clone(),
            level: Level::INFO,
            text: Vec::new(),
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line {
            logs: self.clone(),
            level: *meta.level(),
            text: Vec::new(),
        }
    }
}

/// Writes panics to the logs of the test whose thread they happen in.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A thread that is ending has no test any more.
            let mine = MINE.try_with(|mine| {
                let mine = mine.try_borrow().ok()?;
                mine.as_ref().map(|(logs, _)| logs.clone())
            });
            if let Ok(Some(logs)) = mine {
                logs.line(Level::ERROR, &panic.to_string());
            }
            usual(panic);
        }));
    });
}

/// Runs a test on a runtime of its own. Afterwards no error may have been written and no task may
/// have panicked, save for what [`Logs::expect_error`] names.
///
/// # Panics
/// If the test does, and for unexpected errors; the last lines of the log are shown then.
pub fn story(test: impl AsyncFnOnce(Logs)) {
    hear_panics();
    let logs = Logs::default();
    let dispatch = logs.dispatch();
    let enter = {
        let (logs, dispatch) = (logs.clone(), dispatch.clone());
        move || {
            let guard = tracing::dispatcher::set_default(&dispatch);
            MINE.with(|mine| *mine.borrow_mut() = Some((logs.clone(), guard)));
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(enter)
        .build()
        .expect("a runtime can be made");
    let guard = tracing::dispatcher::set_default(&dispatch);
    let told = AssertUnwindSafe(|| runtime.block_on(test(logs.clone())));
    let told = std::panic::catch_unwind(told);
    drop(guard);
    runtime.shutdown_timeout(Duration::from_secs(10));
    let unexpected = logs.unexpected();
    if told.is_err() || !unexpected.is_empty() {
        logs.show();
    }
    if let Err(panic) = told {
        std::panic::resume_unwind(panic);
    }
    assert!(
        unexpected.is_empty(),
        "errors that do not belong to the story: {unexpected:#?}"
    );
}
