//! The public HTTP surface as its clients use it: status, enumeration, events.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use headcount_model::{ChannelDetails, EventKind, Timestamp};
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::sse::{Block, Parser};

/// How long a read may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an event stream may be silent: twice what servers let pass between signs of life.
const SILENCE: Duration = Duration::from_secs(45);
/// The shortest and the longest pause before an event stream is opened again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A reader of one node.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    http: reqwest::Client,
    base: Url,
    key_name: String,
    secret: String,
}

/// What an answer rests on, as its headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Freshness {
    /// `region/node` of the replica that answered.
    pub(crate) source: String,
    /// How old its knowledge is.
    pub(crate) age_ms: u64,
    /// Regions that it does not hear.
    pub(crate) unheard_regions: Vec<String>,
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The query of the next page.
    pub(crate) next: Option<String>,
}

/// The contract's error body.
#[derive(Deserialize)]
struct Problem {
    error: ProblemFields,
}

#[derive(Deserialize)]
struct ProblemFields {
    message: String,
    code: u32,
}

/// Why a node did not answer as asked.
#[derive(Debug, thiserror::Error)]
#[error("{status} {code}: {message}")]
struct Refused {
    status: StatusCode,
    code: u32,
    message: String,
}

impl Reader {
    /// Makes a reader of the node at `server`, with a key `app.key:secret`.
    pub(crate) fn new(server: &str, key: &str) -> Result<Self, Failure> {
        let base = server_url("--server", server)?;
        let (key_name, secret) = key.split_once(':').unwrap_or((key, ""));
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .build()
            .map_err(Failure::failed)?;
        Ok(Self {
            http,
            base,
            key_name: key_name.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// Returns a channel's global state, and what that rests on.
    pub(crate) async fn status(
        &self,
        channel: &str,
        strong: bool,
    ) -> anyhow::Result<(ChannelDetails, Freshness)> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["channels", channel]);
        }
        if strong {
            url.set_query(Some("consistency=strong"));
        }
        let response = self.get(url).await?;
        let freshness = freshness(response.headers());
        Ok((json(response).await?, freshness))
    }

    /// Returns a page of active channels; `query` is the one of the page before, or see
    /// [`list_query`].
    pub(crate) async fn list<T: DeserializeOwned>(&self, query: &str) -> anyhow::Result<Page<T>> {
        let mut url = self
            .base
            .join("channels")
            .context("the server's address has no path")?;
        url.set_query(Some(query));
        let response = self.get(url).await?;
        let next = next_query(response.headers());
        Ok(Page {
            items: json(response).await?,
            next,
        })
    }

    async fn get(&self, url: Url) -> anyhow::Result<Response> {
        let request = self
            .http
            .get(url)
            .basic_auth(&self.key_name, Some(&self.secret));
        let response = request
            .header("accept", "application/json")
            .timeout(ANSWER)
            .send()
            .await;
        refused(response.with_context(|| format!("no answer from {}", self.base))?).await
    }

    /// Opens the event stream.
    async fn open(&self, wanted: &Wanted, cursor: Option<&str>) -> anyhow::Result<Response> {
        let url = wanted.url(&self.base, cursor)?;
        let request = self
            .http
            .get(url)
            .basic_auth(&self.key_name, Some(&self.secret));
        let response = tokio::time::timeout(ANSWER, request.send());
        let response = response.await.context("the event stream did not open")?;
        refused(response.with_context(|| format!("no answer from {}", self.base))?).await
    }

    /// Follows events, after `cursor` or from now on.
    pub(crate) fn follow(self, wanted: Wanted, cursor: Option<String>) -> Follower {
        Follower {
            reader: self,
            wanted,
            cursor,
            since: BTreeSet::new(),
            stream: None,
            parser: Parser::default(),
            blocks: Vec::new().into_iter(),
            pause: PAUSE.0,
        }
    }
}

/// Checks the address of a server.
pub(crate) fn server_url(flag: &str, text: &str) -> Result<Url, Failure> {
    let url = Url::parse(text).ok();
    if url.as_ref().is_some_and(|url| url.scheme() == "https") {
        return Err(Failure::usage(format!(
            "{flag}: TLS is not spoken here yet; name the node's own listener, http://…, in place of \
             {text}"
        )));
    }
    let url = url.filter(|url| url.scheme() == "http" && url.has_host());
    let url = url.ok_or_else(|| {
        Failure::usage(format!(
            "{flag}: expected an address such as http://127.0.0.1:8080, found {text:?}"
        ))
    })?;
    Ok(url)
}

/// Returns the query of the first page.
pub(crate) fn list_query(prefix: &str, by: &str, limit: usize) -> String {
    let mut url = Url::parse("http://x/").expect("a constant address");
    let limit = limit.to_string();
    url.query_pairs_mut()
        .extend_pairs([("by", by), ("limit", &limit), ("prefix", prefix)]);
    url.query().unwrap_or_default().to_owned()
}

/// Reads what the contract puts into `Link` headers.
fn next_query(headers: &HeaderMap) -> Option<String> {
    let links = headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut next = links.flat_map(|value| value.split(',')).filter_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters
            .split(';')
            .any(|parameter| parameter.trim() == "rel=\"next\"");
        let (_, query) = target.split_once('?')?;
        is_next.then(|| query.to_owned())
    });
    next.next()
}

fn freshness(headers: &HeaderMap) -> Freshness {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    };
    let unheard = text("headcount-unheard-regions")
        .split(',')
        .filter(|name| !name.is_empty());
    Freshness {
        source: text("headcount-source").to_owned(),
        age_ms: text("headcount-age-ms").parse().unwrap_or(0),
        unheard_regions: unheard.map(str::to_owned).collect(),
    }
}

async fn refused(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.unwrap_or_default();
    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
    let (code, message) = problem.map_or_else(
        || {
            (
                0,
                String::from_utf8_lossy(&body).chars().take(200).collect(),
            )
        },
        |problem| (problem.error.code, problem.error.message),
    );
    Err(Refused {
        status,
        code,
        message,
    }
    .into())
}

async fn json<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    let body = response.bytes().await.context("the answer broke off")?;
    serde_json::from_slice(&body).context("the answer is not what was expected")
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) prefix: String,
    pub(crate) kinds: Vec<EventKind>,
}

impl Wanted {
    fn url(&self, base: &Url, cursor: Option<&str>) -> anyhow::Result<Url> {
        let mut url = base
            .join("events")
            .context("the server's address has no path")?;
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
        let mut query = url.query_pairs_mut();
        query.append_pair("prefix", &self.prefix);
        if !kinds.is_empty() {
            query.append_pair("kinds", &kinds.join(","));
        }
        if let Some(cursor) = cursor {
            query.append_pair("cursor", cursor);
        }
        drop(query);
        Ok(url)
    }
}

/// An event as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToldEvent {
    /// The same for the same fact, wherever it is told.
    pub(crate) id: String,
    /// What happened.
    pub(crate) name: String,
    /// When its cause was decided.
    pub(crate) timestamp: Timestamp,
    /// To which channel, and what its state is since.
    pub(crate) data: ChannelDetails,
}

/// One thing that a follower hears.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// Something happened to a channel.
    Event(Box<ToldEvent>),
    /// Events are missing; what the node says about it.
    Gap(serde_json::Value),
    /// The stream broke; it is being opened again, at the resume point.
    Broken(String),
}

/// An event stream that goes on where it was, whatever happens to its connection. Nothing is told
/// twice.
pub(crate) struct Follower {
    reader: Reader,
    wanted: Wanted,
    cursor: Option<String>,
    /// Ids told since the resume point: they are sent again when the stream is.
    since: BTreeSet<String>,
    stream: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    parser: Parser,
    blocks: std::vec::IntoIter<Block>,
    pause: Duration,
}

impl Follower {
    /// Returns the resume point after all that was told; `None` in the middle of what came
    /// together.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref().filter(|_| self.since.is_empty())
    }

    /// Opens the stream unless it is open, so that nothing after this call is missed.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        if self.stream.is_none() {
            let response = self
                .reader
                .open(&self.wanted, self.cursor.as_deref())
                .await?;
            self.stream = Some(response.bytes_stream().boxed());
            self.parser = Parser::default();
        }
        Ok(())
    }

    /// Waits for the next thing to hear.
    ///
    /// # Errors
    /// Only if asking again would not help: the node refuses the request itself.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Told> {
        loop {
            while let Some(block) = self.blocks.next() {
                if let Some(told) = self.take(block)? {
                    return Ok(told);
                }
            }
            if let Err(broken) = self.read().await {
                self.stream = None;
                if broken
                    .downcast_ref::<Refused>()
                    .is_some_and(Refused::is_final)
                {
                    return Err(broken);
                }
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(PAUSE.1);
                return Ok(Told::Broken(format!("{broken:#}")));
            }
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.open().await?;
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let bytes = tokio::time::timeout(SILENCE, stream.next());
        let bytes = bytes.await.context("the event stream is silent")?;
        let bytes = bytes
            .context("the event stream ended")?
            .context("the event stream broke")?;
        self.blocks = self.parser.push(&bytes)?.into_iter();
        Ok(())
    }

    fn take(&mut self, block: Block) -> anyhow::Result<Option<Told>> {
        let Block { event, id, data } = block;
        let told = match event.as_str() {
            "" => None,
            "gap" => Some(Told::Gap(
                serde_json::from_str(&data).context("a gap is malformed")?,
            )),
            "end" => {
                self.stream = None;
                Some(Told::Broken(format!("the node ended the stream: {data}")))
            }
            _ => {
                let event: ToldEvent =
                    serde_json::from_str(&data).context("an event is malformed")?;
                let is_new = self.since.insert(event.id.clone());
                is_new.then(|| Told::Event(Box::new(event)))
            }
        };
        if id.is_some() {
            self.cursor = id;
            self.since.clear();
        }
        self.pause = PAUSE.0;
        Ok(told)
    }
}

impl Refused {
    /// Whether the request itself is at fault, so that sending it again is no use.
    fn is_final(&self) -> bool {
        self.status.is_client_error() && self.status != StatusCode::TOO_MANY_REQUESTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn the_next_page_is_found_among_the_links() {
        let mut headers = HeaderMap::new();
        let first = HeaderValue::from_static("<./channels?limit=1>; rel=\"first\"");
        let both = HeaderValue::from_static(
            "<./channels?limit=1&c=0>; rel=\"current\", <./channels?limit=1&c=1>; rel=\"next\"",
        );
        headers.append(LINK, first);
        assert_eq!(next_query(&headers), None);
        headers.append(LINK, both);
        assert_eq!(next_query(&headers).as_deref(), Some("limit=1&c=1"));
    }

    #[test]
    fn a_prefix_is_encoded() {
        assert_eq!(
            list_query("a&b ü", "id", 7),
            "by=id&limit=7&prefix=a%26b+%C3%BC"
        );
    }

    #[test]
    fn servers_are_spoken_to_by_plain_http() {
        assert!(server_url("--server", "http://127.0.0.1:8080").is_ok());
        let secure = server_url("--server", "https://x").unwrap_err();
        assert!(secure.to_string().contains("--server: TLS"), "{secure}");
        for bad in ["127.0.0.1:8080", "http://", "x"] {
            let failure = server_url("--server", bad).unwrap_err();
            assert!(failure.to_string().contains("--server: expected"), "{bad}");
        }
    }

    #[test]
    fn what_was_told_after_the_resume_point_is_not_told_twice() {
        let reader = Reader::new("http://127.0.0.1:1", "a.b:c").unwrap();
        let mut follower = reader.follow(Wanted::default(), None);
        let data = serde_json::json!({
            "id": "1.2.3.4", "name": "channel.opened", "timestamp": 5,
            "data": { "channelId": "x", "name": "x", "status":
                { "isActive": true, "occupancy": { "metrics": {} } } },
        });
        let block = |id: Option<&str>| Block {
            event: "channel.opened".to_owned(),
            id: id.map(str::to_owned),
            data: data.to_string(),
        };
        assert!(matches!(
            follower.take(block(None)).unwrap(),
            Some(Told::Event(_))
        ));
        assert!(
            follower.take(block(None)).unwrap().is_none(),
            "sent again after a break"
        );
        assert!(follower.take(block(Some("c"))).unwrap().is_none());
        assert_eq!(follower.cursor(), Some("c"));
        assert!(follower.since.is_empty(), "bounded by the node's batches");
    }

    /// Answers connections one after the other with these bodies; returns what each was asked.
    async fn serve_in_turn(
        listener: tokio::net::TcpListener,
        bodies: Vec<String>,
    ) -> std::io::Result<Vec<String>> {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut asked = Vec::new();
        for body in bodies {
            let (stream, _) = listener.accept().await?;
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                stream.read_line(&mut head).await?;
            }
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await?;
            asked.push(head.lines().next().unwrap_or_default().to_owned());
        }
        Ok(asked)
    }

    fn told(id: &str, cursor: &str) -> String {
        let data = serde_json::json!({
            "id": id, "name": "channel.opened", "timestamp": 5,
            "data": { "channelId": "x", "name": "x", "status":
                { "isActive": true, "occupancy": { "metrics": {} } } },
        });
        format!("event: channel.opened\n{cursor}data: {data}\n\n")
    }

    #[tokio::test]
    async fn a_broken_stream_is_taken_up_at_the_resume_point() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        // The first breaks off in the middle of what came together, the second tells it again.
        let first = format!("{}{}", told("a", "id: one\n"), told("b", ""));
        let second = format!("{}{}", told("b", ""), told("c", "id: two\n"));
        let served = tokio::spawn(serve_in_turn(listener, vec![first, second]));
        let reader = Reader::new(&address, "a.b:c").unwrap();
        let mut follower = reader.follow(Wanted::default(), None);
        let mut heard = Vec::new();
        while heard.len() < 4 {
            heard.push(match follower.next().await.unwrap() {
                Told::Event(event) => event.id,
                Told::Broken(_) => "broken".to_owned(),
                Told::Gap(gap) => panic!("{gap}"),
            });
        }
        assert_eq!(heard, ["a", "b", "broken", "c"]);
        assert_eq!(follower.cursor(), Some("two"));
        let asked = served.await.unwrap().unwrap();
        assert!(!asked[0].contains("cursor"), "{asked:?}");
        assert!(asked[1].contains("cursor=one"), "{asked:?}");
    }
}
