//! Chance for the load's traffic: reproducible from a seed, on every machine and in every release.

/// A generator of numbers that look random (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to just below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns whether something of that chance happens.
    pub(super) fn happens(&mut self, chance: f64) -> bool {
        self.unit() < chance
    }

    /// Returns a number below `bound`, which must not be 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let product = u128::from(self.next()) * bound as u128;
        usize::try_from(product >> 64).expect("the product's upper half is below the bound")
    }
}

/// Ranks of which each is drawn in proportion to 1 / (rank + 1) ^ exponent.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    /// For each rank the sum of the shares up to and with it; the last is 1.
    sums: Vec<f64>,
}

impl Zipf {
    /// Makes a distribution over `ranks`, at least one.
    #[expect(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
    pub(super) fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (0..ranks.max(1))
            .map(|rank| {
                sum += ((rank + 1) as f64).powf(-exponent);
                sum
            })
            .collect();
        for share in &mut sums {
            *share /= sum;
        }
        Self { sums }
    }

    /// Draws a rank, from 0.
    pub(super) fn draw(&self, dice: &mut Dice) -> usize {
        let at = dice.unit();
        self.sums
            .partition_point(|sum| *sum <= at)
            .min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_brings_the_same_numbers() {
        let draw = |seed| {
            let (zipf, mut dice) = (Zipf::new(1_000, 1.0), Dice::new(seed));
            (0..100).map(|_| zipf.draw(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let mut dice = Dice::new(1);
        assert_eq!(dice.next(), 0x910a_2dec_8902_5cc1, "fixed for ever");
    }

    #[test]
    fn popular_channels_are_drawn_as_often_as_the_law_says() {
        let (zipf, mut dice) = (Zipf::new(100, 1.0), Dice::new(1));
        let mut counts = [0_u32; 100];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut dice)] += 1;
        }
        // The harmonic number of 100 is 5.187: the first has 19.3 %, the second half of it.
        assert!((18_500..20_100).contains(&counts[0]), "{}", counts[0]);
        assert!((9_200..10_100).contains(&counts[1]), "{}", counts[1]);
        assert!(counts[99] > 100, "{}", counts[99]);
    }

    #[test]
    fn with_exponent_zero_all_are_alike() {
        let (zipf, mut dice) = (Zipf::new(10, 0.0), Dice::new(3));
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[zipf.draw(&mut dice)] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut dice = Dice::new(5);
        assert!((0..1_000).all(|_| dice.below(3) < 3));
        assert!((0..10).all(|_| dice.below(1) == 0));
    }
}
