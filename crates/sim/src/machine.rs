//! A machine: a program that runs on it, and its sense of time.

use std::net::IpAddr;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep_until};

use crate::time;

/// What a monotonic clock shows when a program starts, so that programs may look back.
const UPTIME: Duration = Duration::from_secs(100_000);

/// A machine with at most one program, which has a runtime of its own: whatever the program began,
/// in whatever library, ends when the machine is stopped.
#[derive(Debug)]
pub struct Machine {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// By how many milliseconds its wall clock is ahead.
    pub ahead_ms: i64,
    /// How fast its monotonic clock runs, in thousandths of the world's time.
    permille: u32,
    paused: bool,
    program: Option<Program>,
}

#[derive(Debug)]
struct Program {
    runtime: Runtime,
    /// When the world's time was `since`, the program's was this.
    began: Instant,
    since: Duration,
}

impl Program {
    /// Returns the program's time now, by a clock that has run like this since `since`.
    fn target(&self, permille: u32) -> Instant {
        self.began + time::now().saturating_sub(self.since) * permille / 1_000
    }
}

impl Machine {
    /// Makes a machine without a program.
    #[must_use]
    pub fn new(name: String, address: IpAddr) -> Self {
        Self {
            name,
            address,
            ahead_ms: 0,
            permille: 1_000,
            paused: false,
            program: None,
        }
    }

    /// Returns whether a program runs, or is paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.program.is_some()
    }

    /// Starts a program.
    ///
    /// # Panics
    /// If one runs, or if the system has no room for a runtime.
    pub fn start(&mut self, program: impl Future<Output = ()> + Send + 'static) {
        assert!(self.program.is_none(), "{} runs a program", self.name);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        time::set_ahead(self.ahead_ms);
        let began = runtime.block_on(async {
            advance(UPTIME).await;
            Instant::now()
        });
        drop(runtime.spawn(program));
        self.paused = false;
        self.program = Some(Program {
            runtime,
            began,
            since: time::now(),
        });
    }

    /// Starts a task beside the program.
    ///
    /// # Panics
    /// If no program runs.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let program = self.program.as_ref().expect("a program runs");
        drop(program.runtime.spawn(task));
    }

    /// Ends the program where it stands.
    pub fn stop(&mut self) {
        time::set_ahead(self.ahead_ms);
        self.program = None;
        self.paused = false;
    }

    /// Lets the program stand still, as SIGSTOP does; its clocks go on.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Lets its monotonic clock run faster or slower from now on, in thousandths of the world's time.
    pub fn set_rate(&mut self, permille: u32) {
        if let Some(program) = &mut self.program {
            program.began = program.target(self.permille);
            program.since = time::now();
        }
        self.permille = permille;
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Returns whether its program stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Lets the program run up to the world's time.
    pub fn tick(&mut self, length: Duration) {
        let Some(program) = &self.program else { return };
        if self.paused {
            return;
        }
        time::set_ahead(self.ahead_ms);
        let target = program.target(self.permille);
        // What a fast clock is ahead within a step is no pause.
        let length = length * 2;
        program.runtime.block_on(async move {
            let behind = target.saturating_duration_since(Instant::now());
            if let Some(slept) = behind.checked_sub(length)
                && slept > Duration::ZERO
            {
                // It was paused: all that was due meanwhile is due at once.
                advance(slept).await;
            }
            sleep_until(target).await;
        });
    }
}
