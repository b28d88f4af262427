//! Runs a target on mutated input, and judges each run.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::{self, Debug, Write as _};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::HEAP;
use crate::mutate::{Tree, mutate};
use crate::random::Random;

/// Most inputs that are kept for further mutation; above it, new ones take the place of others.
const POOL_MAX: usize = 2_048;

/// How much of an outcome's text is its shape, in characters.
const SHAPE_CHARS: usize = 400;

/// Most runs that go into making a failure smaller.
const SHRINKING_RUNS: usize = 4_000;

/// How often the fastest run is looked for before an input is called slow: other processes want the
/// processor, too.
const TRIES: usize = 5;

thread_local! {
    /// Whether this thread runs a target, of which panics are caught.
    static JUDGING: Cell<bool> = const { Cell::new(false) };
}

/// Decodes an input, and asserts what must hold of the outcome.
pub type Decoder = Box<dyn Fn(&[u8]) -> Shape>;

/// Something that is fuzzed.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Real input to begin with.
    pub seeds: Vec<Vec<u8>>,
    /// Words of its language, for mutation.
    pub words: Vec<&'static str>,
    /// Which trees its inputs hold.
    pub(crate) tree: Tree,
    /// What a run may take.
    pub bounds: Bounds,
    /// Decodes an input, panics if a rule is broken, and returns what became of it.
    pub run: Decoder,
}

impl Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// Makes one of inputs that hold no tree.
    pub fn new(
        name: &'static str,
        seeds: Vec<Vec<u8>>,
        run: impl Fn(&[u8]) -> Shape + 'static,
    ) -> Self {
        Self {
            name,
            seeds,
            words: Vec::new(),
            tree: Tree::None,
            bounds: Bounds::default(),
            run: Box::new(run),
        }
    }
}

/// What one run may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes on the heap at once, whatever the input.
    pub heap_bytes: usize,
    /// Bytes on the heap at once for each byte of the input.
    pub heap_bytes_each: usize,
    /// The time that the fastest of some runs may take.
    pub time: Duration,
}

impl Default for Bounds {
    /// A value of one byte takes 32 bytes in a tree, its list as much again while it grows. What is
    /// checked is encoded and decoded once more, of which a thousand messages that say nothing take
    /// most.
    fn default() -> Self {
        Self {
            heap_bytes: 2 << 20,
            heap_bytes_each: 512,
            time: Duration::from_secs(1),
        }
    }
}

/// What became of an input, without what is not worth telling apart: the hash of the beginning of
/// its debug text, without digits and quoted texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape(u64);

impl Shape {
    /// Takes an outcome's shape.
    pub fn of(outcome: &dyn Debug) -> Self {
        let mut text = Text {
            hasher: DefaultHasher::new(),
            chars_left: SHAPE_CHARS,
            quoted: false,
            escaped: false,
        };
        // An error says that enough was written.
        let _enough = write!(text, "{outcome:?}");
        Self(text.hasher.finish())
    }
}

struct Text {
    hasher: DefaultHasher,
    chars_left: usize,
    quoted: bool,
    escaped: bool,
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if std::mem::take(&mut self.escaped) {
                // Belongs to the text.
            } else if c == '\\' {
                self.escaped = true;
            } else if c == '"' {
                self.quoted = !self.quoted;
            } else if !self.quoted && !c.is_ascii_digit() {
                c.hash(&mut self.hasher);
            }
            self.chars_left = self.chars_left.checked_sub(1).ok_or(fmt::Error)?;
        }
        Ok(())
    }
}

/// How long to fuzz, and from which number all else follows.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How long.
    pub time: Duration,
    /// How many inputs at most.
    pub inputs_max: u64,
}

/// What a target went through.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Inputs that were run.
    pub inputs: u64,
    /// Different shapes of outcomes.
    pub shapes: usize,
    /// The most heap that a run took, in bytes.
    pub heap_bytes: usize,
    /// The longest time that a run took.
    pub longest: Duration,
}

/// An input that breaks a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The target.
    pub target: &'static str,
    /// What happened.
    pub what: String,
    /// The input.
    pub input: Vec<u8>,
    /// How many inputs came before it.
    pub after: u64,
}

/// Fuzzes a target until the plan's end or the first failure.
///
/// # Errors
/// The failure, as small as it was made.
pub fn fuzz(target: &Target, plan: &Plan) -> Result<Summary, Box<Failure>> {
    let mut hasher = DefaultHasher::new();
    (plan.seed, target.name).hash(&mut hasher);
    let mut random = Random::new(hasher.finish());
    let mut summary = Summary {
        inputs: 0,
        shapes: 0,
        heap_bytes: 0,
        longest: Duration::ZERO,
    };
    let (mut pool, mut shapes) = (Vec::<Vec<u8>>::new(), BTreeSet::new());
    let mut seeds = target.seeds.iter();
    let started = Instant::now();
    while started.elapsed() < plan.time && summary.inputs < plan.inputs_max {
        let seed = seeds.next();
        let input = seed.cloned().unwrap_or_else(|| {
            let [one, other] = [(); 2].map(|()| random.below(pool.len()));
            mutate(
                &pool[one],
                &pool[other],
                target.tree,
                &target.words,
                &mut random,
            )
        });
        let run = match judge(target, &input) {
            Ok(run) => run,
            Err(what) => {
                let failure = Failure {
                    target: target.name,
                    what,
                    input,
                    after: summary.inputs,
                };
                return Err(Box::new(shrink(target, failure)));
            }
        };
        summary.inputs += 1;
        summary.heap_bytes = summary.heap_bytes.max(run.heap_bytes);
        summary.longest = summary.longest.max(run.took);
        if shapes.insert(run.shape) || seed.is_some() {
            if pool.len() < POOL_MAX {
                pool.push(input);
            } else {
                let place = random.below(POOL_MAX);
                pool[place] = input;
            }
        }
    }
    summary.shapes = shapes.len();
    Ok(summary)
}

/// One run that broke no rule.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    shape: Shape,
    heap_bytes: usize,
    took: Duration,
}

/// Runs a target once, or some times if it was slow.
///
/// # Errors
/// What rule is broken.
pub fn judge(target: &Target, input: &[u8]) -> Result<Run, String> {
    let bounds = &target.bounds;
    let heap_bytes_max = bounds.heap_bytes + input.len() * bounds.heap_bytes_each;
    let mut run = judge_once(target, input)?;
    for _ in 1..TRIES {
        if run.took <= bounds.time {
            break;
        }
        run.took = run.took.min(judge_once(target, input)?.took);
    }
    if run.took > bounds.time {
        return Err(format!("takes {:?}, more than {:?}", run.took, bounds.time));
    }
    if run.heap_bytes > heap_bytes_max {
        let (bytes, input) = (run.heap_bytes, input.len());
        return Err(format!(
            "takes {bytes} bytes of memory for {input}, more than {heap_bytes_max}"
        ));
    }
    Ok(run)
}

/// Lets panics of targets be told by their failures only; others are told as ever.
pub fn hush() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !JUDGING.get() {
            tell(panic);
        }
    }));
}

fn judge_once(target: &Target, input: &[u8]) -> Result<Run, String> {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let started = Instant::now();
    JUDGING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    JUDGING.set(false);
    let took = started.elapsed();
    let heap_bytes = HEAP.peak_usage().saturating_sub(before);
    match outcome {
        Ok(shape) => Ok(Run {
            shape,
            heap_bytes,
            took,
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panics: {}", text.unwrap_or("without a text")))
        }
    }
}

/// Leaves out of a failure's input what it does not need: pieces, each half as long as the last.
fn shrink(target: &Target, mut failure: Failure) -> Failure {
    let mut runs_left = SHRINKING_RUNS;
    let mut piece = failure.input.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < failure.input.len() && runs_left > 0 {
            runs_left -= 1;
            let mut smaller = failure.input.clone();
            drop(smaller.drain(at..smaller.len().min(at + piece)));
            match judge(target, &smaller) {
                Err(what) => {
                    failure.input = smaller;
                    failure.what = what;
                }
                Ok(_) => at += piece,
            }
        }
        piece /= 2;
    }
    failure
}
