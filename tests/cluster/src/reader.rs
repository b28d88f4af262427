//! A reader: asks a node over HTTP.

use std::time::Duration;

use headcount_model::{ChannelDetails, Occupancy};
use reqwest::header::HeaderMap;

use crate::{Cluster, PATIENCE, ROOT};

/// Somebody who asks one node.
#[derive(Clone, Debug)]
pub struct Reader {
    base: String,
    http: reqwest::Client,
    key: String,
}

/// What a node answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

/// A channel's status with what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether the channel is active anywhere.
    pub active: bool,
    /// Its global counts.
    pub occupancy: Occupancy,
    /// The coordinator's region.
    pub coordinator: String,
    /// What the answer rests on.
    pub freshness: Freshness,
}

/// What an answer rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// `region/node` of the replica that answered.
    pub source: String,
    /// How old its knowledge is.
    pub age: Duration,
    /// Regions that are not heard.
    pub unheard: Vec<String>,
}

/// A channel of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub channel: String,
    /// Whether it is active anywhere.
    pub active: bool,
    /// Its global counts.
    pub occupancy: Occupancy,
}

impl Answer {
    /// Returns a header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the public error code that body and headers carry alike.
    ///
    /// # Panics
    /// If the answer is no error of the contract.
    #[must_use]
    pub fn error_code(&self) -> u64 {
        let body: serde_json::Value =
            serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let code = body["error"]["code"].as_u64();
        let code = code.unwrap_or_else(|| panic!("no error code: {self:?}"));
        assert_eq!(
            self.header("x-ably-errorcode"),
            Some(code.to_string().as_str()),
            "{self:?}"
        );
        let message = body["error"]["message"].as_str();
        assert!(
            message.is_some_and(|message| !message.is_empty()),
            "{self:?}"
        );
        code
    }

    fn freshness(&self) -> Result<Freshness, String> {
        let source = self
            .header("headcount-source")
            .ok_or("no Headcount-Source")?;
        let age = self
            .header("headcount-age-ms")
            .ok_or("no Headcount-Age-Ms")?;
        let age = age
            .parse()
            .map_err(|_| format!("Headcount-Age-Ms: {age}"))?;
        let unheard = self.header("headcount-unheard-regions").unwrap_or_default();
        let unheard = unheard.split(',').filter(|region| !region.is_empty());
        Ok(Freshness {
            source: source.to_owned(),
            age: Duration::from_millis(age),
            unheard: unheard.map(str::to_owned).collect(),
        })
    }
}

/// Encodes a name so that it is one part of a path.
fn encode(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

impl Reader {
    /// Returns a reader of one node, with the key that may do everything.
    #[must_use]
    pub fn new(cluster: &Cluster, node: usize) -> Self {
        let base = format!("http://{}", cluster.ports(node).client);
        Self {
            base,
            http: cluster.http().clone(),
            key: ROOT.to_owned(),
        }
    }

    /// Returns the same reader with another key, or with a token.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            self.base.clone() + path
        };
        self.ask(self.http.get(url)).await
    }

    /// Posts to a path.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> Result<Answer, String> {
        self.ask(self.http.post(self.base.clone() + path).json(body))
            .await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<Answer, String> {
        let request = match self.key.split_once(':') {
            Some((user, secret)) => request.basic_auth(user, Some(secret)),
            None => request.bearer_auth(&self.key),
        };
        let asked = request.timeout(PATIENCE).send().await;
        let asked = asked.map_err(|error| format!("{error:?}"))?;
        let (status, headers) = (asked.status().as_u16(), asked.headers().clone());
        let body = asked.text().await.map_err(|error| error.to_string())?;
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// Returns a channel's status as this node's replica has it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn status(&self, channel: &str) -> Result<Status, String> {
        self.read_status(&format!("/channels/{}", encode(channel)))
            .await
    }

    /// Returns a channel's status as the coordinator confirms it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn strong(&self, channel: &str) -> Result<Status, String> {
        self.read_status(&format!("/channels/{}?consistency=strong", encode(channel)))
            .await
    }

    async fn read_status(&self, path: &str) -> Result<Status, String> {
        let answer = self.get(path).await?;
        if answer.status != 200 {
            return Err(format!("{}: {}", answer.status, answer.body));
        }
        let details: ChannelDetails =
            serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {answer:?}"))?;
        Ok(Status {
            active: details.status.is_active,
            occupancy: details.status.occupancy.metrics,
            coordinator: details.region.ok_or("no region")?,
            freshness: answer.freshness()?,
        })
    }

    /// Returns everything that a channel's history tells in a direction, in pages of `limit`,
    /// following the links.
    ///
    /// # Errors
    /// Why there is no history.
    pub async fn history(
        &self,
        channel: &str,
        direction: &str,
        limit: usize,
    ) -> Result<Vec<serde_json::Value>, String> {
        let base = format!("/channels/{}", encode(channel));
        let mut told = Vec::new();
        let mut next = Some(format!("/messages?direction={direction}&limit={limit}"));
        while let Some(page) = next {
            let answer = self.get(&format!("{base}{page}")).await?;
            if answer.status != 200 {
                return Err(format!("{}: {}", answer.status, answer.body));
            }
            let page: Vec<serde_json::Value> = serde_json::from_str(&answer.body)
                .map_err(|error| format!("{error}: {}", answer.body))?;
            told.extend(page);
            next = next_link(&answer.headers);
        }
        Ok(told)
    }

    /// Returns all active channels with a prefix, in pages of a size that makes several.
    ///
    /// # Errors
    /// Why there is no list.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, String> {
        self.list_by(prefix, 100).await
    }

    /// Returns all active channels with a prefix, in pages of `limit`, following the links.
    ///
    /// # Errors
    /// Why there is no list.
    pub async fn list_by(&self, prefix: &str, limit: usize) -> Result<Vec<Listed>, String> {
        let mut listed = Vec::new();
        let mut next = Some(format!(
            "/channels?by=value&limit={limit}&prefix={}",
            encode(prefix)
        ));
        while let Some(path) = next {
            let answer = self.get(&path).await?;
            if answer.status != 200 {
                return Err(format!("{}: {}", answer.status, answer.body));
            }
            let page: Vec<ChannelDetails> = serde_json::from_str(&answer.body)
                .map_err(|error| format!("{error}: {}", answer.body))?;
            answer.freshness()?;
            next = next_link(&answer.headers);
            if page.len() > limit || (page.is_empty() && next.is_some()) {
                return Err(format!("a page of {} for a limit of {limit}", page.len()));
            }
            listed.extend(page.into_iter().map(|details| Listed {
                channel: details.channel_id,
                active: details.status.is_active,
                occupancy: details.status.occupancy.metrics,
            }));
        }
        Ok(listed)
    }
}

/// Returns the path of the link to the next page, which is relative to `/`.
fn next_link(headers: &HeaderMap) -> Option<String> {
    let links = headers
        .get_all("link")
        .into_iter()
        .filter_map(|link| link.to_str().ok());
    let next = links
        .into_iter()
        .find(|link| link.contains("rel=\"next\""))?;
    let path = next.trim_start_matches('<').split('>').next()?;
    Some(format!(
        "/{}",
        path.trim_start_matches("./").trim_start_matches('/')
    ))
}
