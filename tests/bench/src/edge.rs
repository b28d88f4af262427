//! An edge that costs little: its batches are encoded before the clock runs.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use headcount_model::{Category, Modes as Counted};
use headcount_wire::proto::report::v1 as pb;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::traffic::{self, Attach};

/// Modes of an ordinary attachment: it counts in five categories.
const MODES: u32 = 15;

/// An open stream of an edge.
#[derive(Debug)]
pub(crate) struct Edge {
    requests: mpsc::Sender<Bytes>,
    responses: Streaming<pb::ReportResponse>,
    pub(crate) window: u64,
    pub(crate) items_max: usize,
    /// The last batch that was acknowledged.
    acknowledged: u64,
}

impl Edge {
    /// Opens a session with nothing attached.
    pub(crate) async fn open(address: SocketAddr, name: &str, key: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel: Channel = endpoint.tcp_nodelay(true).connect().await?;
        let (requests, queue) = mpsc::channel(64);
        let hello = pb::ReportRequest {
            body: Some(pb::report_request::Body::Hello(pb::Hello {
                protocol_min: 1,
                protocol_max: 1,
                edge: name.to_owned(),
                incarnation: 1,
                session: 1,
                resume_session: None,
            })),
        };
        requests.send(hello.encode_to_vec().into()).await?;
        let mut request = Request::new(ReceiverStream::new(queue));
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        let basic = format!("Basic {key}").parse()?;
        request.metadata_mut().insert("authorization", basic);
        let mut client = Grpc::new(channel);
        client.ready().await?;
        let path = "/headcount.report.v1.Reporter/Report".parse()?;
        let mut responses = client.streaming(request, path, Encoded).await?.into_inner();
        let welcome = responses.message().await?.context("no welcome")?;
        let Some(pb::report_response::Body::Welcome(welcome)) = welcome.body else {
            bail!("the first answer is no welcome");
        };
        let limits = welcome.limits.context("no limits")?;
        Ok(Self {
            requests,
            responses,
            window: limits.window_batches.into(),
            items_max: limits.batch_items_max as usize,
            acknowledged: 0,
        })
    }

    /// Returns the sequence of the batch after those that were sent.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.acknowledged + 1
    }

    /// Sends batches, as many at a time as the node allows, and waits for all acknowledgements.
    pub(crate) async fn send(&mut self, encoded: &[(Bytes, u64)]) -> Result<()> {
        let last = encoded.last().context("there are batches")?.1;
        let mut acknowledged = encoded[0].1 - 1;
        let mut batches = encoded.iter();
        let mut next = batches.next();
        while acknowledged < last {
            while let Some((bytes, sequence)) = next {
                if *sequence > acknowledged + self.window {
                    break;
                }
                self.requests.send(bytes.clone()).await?;
                next = batches.next();
            }
            let answer = self.responses.message().await?.context("no more answers")?;
            let Some(pb::report_response::Body::Ack(ack)) = answer.body else {
                bail!("an answer is no acknowledgement");
            };
            ensure!(ack.refusals.is_empty(), "refused: {:?}", ack.refusals);
            acknowledged = ack.sequence;
            self.acknowledged = acknowledged;
        }
        Ok(())
    }
}

/// Encodes attaches as batches with the sequences from `first` on.
pub(crate) fn encode(attaches: &[Attach], items_max: usize, first: u64) -> Vec<(Bytes, u64)> {
    batches(attaches, items_max, first, attach)
}

/// Encodes attaches and then detaches as one batch, the one after `before` and the first.
pub(crate) fn encode_both(attaches: &[Attach], detaches: &[Attach], before: u64) -> (Bytes, u64) {
    let detaches = detaches.iter().map(|detach| {
        pb::item::Change::Detach(pb::Detach {
            connection: detach.connection(),
            channel: detach.channel(),
        })
    });
    let changes: Vec<_> = attaches.iter().map(attach).chain(detaches).collect();
    let batch = batches(&changes, changes.len(), before + 2, Clone::clone);
    batch
        .into_iter()
        .next()
        .expect("there is something to tell")
}

fn attach(attach: &Attach) -> pb::item::Change {
    pb::item::Change::Attach(pb::Attach {
        connection: attach.connection(),
        channel: attach.channel(),
        modes: MODES,
    })
}

/// Encodes one attachment's counts on each channel, as an edge that counts itself tells them.
pub(crate) fn encode_counts(channels: &[u32], items_max: usize, first: u64) -> Vec<(Bytes, u64)> {
    encode_many(channels, 1, items_max, first)
}

/// Encodes the counts of so many subscribers and one of everything else on each channel.
pub(crate) fn encode_many(
    channels: &[u32],
    subscribers: u32,
    items_max: usize,
    first: u64,
) -> Vec<(Bytes, u64)> {
    let mut occupancy = Counted::DEFAULT.occupancy();
    occupancy.set(Category::Subscribers, subscribers);
    batches(channels, items_max, first, |channel| {
        pb::item::Change::Counts(pb::Counts {
            channel: traffic::channel(*channel),
            occupancy: Some(occupancy.into()),
        })
    })
}

fn batches<T>(
    all: &[T],
    items_max: usize,
    first: u64,
    change: impl Fn(&T) -> pb::item::Change,
) -> Vec<(Bytes, u64)> {
    let batches = all.chunks(items_max).zip(first..);
    let batches = batches.map(|(chunk, sequence)| {
        let items = chunk.iter().map(|item| pb::Item {
            change: Some(change(item)),
        });
        let batch = pb::Batch {
            sequence,
            items: items.collect(),
            set_complete: true,
        };
        let request = pb::ReportRequest {
            body: Some(pb::report_request::Body::Batch(batch)),
        };
        (Bytes::from(request.encode_to_vec()), sequence)
    });
    batches.collect()
}

/// Requests that are encoded already.
#[derive(Clone, Copy, Debug, Default)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = pb::ReportResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = pb::ReportResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let mut bytes = BytesMut::with_capacity(buffer.remaining());
        bytes.put(buffer);
        let decoded = pb::ReportResponse::decode(bytes);
        decoded
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
