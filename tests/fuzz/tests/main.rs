//! The fuzzer finds what it is to find, and its own seeds are what they should be.
#![cfg(test)]

use std::time::Duration;

use headcount_fuzz::{Plan, Shape, Target, fuzz, judge, targets};

const PLAN: Plan = Plan {
    seed: 7,
    time: Duration::from_secs(60),
    inputs_max: 20_000,
};

/// A target that holds everything that its own test does not break.
fn target(run: impl Fn(&[u8]) -> Shape + 'static) -> Target {
    let seeds = vec![b"{\"length\":12,\"list\":[1,2,3]}".to_vec()];
    Target::new("planted", seeds, run)
}

/// Phases of one test, since what is measured is the whole process's.
#[test]
fn whatever_is_planted_is_found() {
    // A panic behind two conditions, of which the first has a shape of its own.
    let panics = target(|input| {
        let nested = input.windows(3).any(|bytes| bytes == b"[[[");
        assert!(!(nested && input.contains(&0xff)), "deep and no text");
        Shape::of(&nested)
    });
    let failure = fuzz(&panics, &PLAN).unwrap_err();
    assert_eq!(failure.what, "panics: deep and no text");
    assert_eq!(failure.input.len(), 4, "{failure:?}");
    assert!(judge(&panics, &failure.input).is_err());
    let again = fuzz(&panics, &PLAN).unwrap_err();
    assert_eq!((again.input, again.after), (failure.input, failure.after));

    // Memory for a claimed length.
    let greedy = target(|input| {
        let text = String::from_utf8_lossy(input);
        let claimed = text
            .split(|c: char| !c.is_ascii_digit())
            .find_map(|text| text.parse().ok());
        let reserved: Vec<u8> = Vec::with_capacity(claimed.unwrap_or(0_usize).min(1 << 24));
        Shape::of(&reserved)
    });
    let failure = fuzz(&greedy, &PLAN).unwrap_err();
    assert!(failure.what.contains("bytes of memory"), "{failure:?}");

    // Time.
    let mut slow = target(|input| {
        let rounds = if input.len() > 500 { 10_000_000 } else { 1 };
        let mixed = (0..rounds).fold(input.len() as u64, |mixed, round| {
            std::hint::black_box(mixed.rotate_left(5) ^ round)
        });
        Shape::of(&(mixed == 0))
    });
    slow.bounds.time = Duration::from_millis(5);
    let failure = fuzz(&slow, &PLAN).unwrap_err();
    assert!(failure.what.starts_with("takes"), "{failure:?}");
    assert!(failure.input.len() > 500, "{failure:?}");

    // Nothing, where there is nothing; and every real target stands its own seeds and some more.
    fuzz(&target(|input| Shape::of(&input.len())), &PLAN).unwrap();
    for target in targets() {
        let some = Plan {
            inputs_max: target.seeds.len() as u64 + 100,
            ..PLAN
        };
        let summary = fuzz(&target, &some).unwrap_or_else(|failure| panic!("{failure:?}"));
        assert!(summary.shapes > 1, "{target:?}: {summary:?}");
    }
}
