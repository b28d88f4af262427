//! Random traffic of an edge, from a seed.

use headcount_model::Modes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::Edge;

/// Random attaches, detaches and presence of one edge on a few channels, so that they go active
/// and inactive all the time.
#[derive(Debug)]
pub struct Churn {
    rng: StdRng,
    channels: Vec<String>,
    /// Which connections are attached to what.
    attached: Vec<(String, String)>,
}

impl Churn {
    /// Makes traffic on channels `prefix` and a number below `channels`.
    #[must_use]
    pub fn new(seed: u64, prefix: &str, channels: usize) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            channels: (0..channels)
                .map(|number| format!("{prefix}{number}"))
                .collect(),
            attached: Vec::new(),
        }
    }

    /// Makes one change through `edge`.
    pub async fn step(&mut self, edge: &mut Edge) {
        // Few at a time, so that channels end about as often as they grow.
        let leave = !self.attached.is_empty()
            && (self.attached.len() >= self.channels.len() || self.rng.random_bool(0.5));
        if leave {
            let index = self.rng.random_range(0..self.attached.len());
            let (connection, channel) = self.attached.swap_remove(index);
            if self.rng.random_bool(0.1) {
                edge.close(&connection).await;
                self.attached.retain(|(other, _)| *other != connection);
            } else {
                edge.detach(&connection, &channel).await;
            }
            return;
        }
        let channel = self.channels[self.rng.random_range(0..self.channels.len())].clone();
        let connection = format!("c{}", self.rng.random_range(0..8));
        let pair = (connection, channel);
        if self.attached.contains(&pair) {
            let (connection, channel) = &pair;
            let member = format!("m{}", self.rng.random_range(0..3));
            edge.enter(connection, channel, &member).await;
            return;
        }
        edge.attach_as(&pair.0, &pair.1, Modes::DEFAULT).await;
        self.attached.push(pair);
    }

    /// Detaches everything.
    pub async fn leave_all(&mut self, edge: &mut Edge) {
        for (connection, channel) in std::mem::take(&mut self.attached) {
            edge.detach(&connection, &channel).await;
        }
    }
}
