//! The admin listener as its operators use it.

use std::time::Duration;

use anyhow::Context;
use headcount_node::admin::ClusterStatus;
use headcount_node::config::{ProcessEnvironment, Sources, load};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::{Operate, dialled};
use crate::failure::Failure;
use crate::rest::server_url;

/// The admin listener of a node that was not told otherwise.
const ADMIN: &str = "http://127.0.0.1:8083";

/// How long an answer may take: a command goes through raft, and perhaps through an election.
const ANSWER: Duration = Duration::from_secs(30);

/// An operator of one node.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    remedy: Option<String>,
}

impl Operator {
    /// Makes an operator as the flags say, or as the node's own configuration does.
    pub(crate) fn new(operate: &Operate) -> Result<Self, Failure> {
        let mut address = operate.admin.clone();
        let mut token = operate.token.clone().filter(|token| !token.is_empty());
        if let Some(path) = operate
            .config
            .as_ref()
            .filter(|_| address.is_none() || token.is_none())
        {
            let mut sources = Sources {
                environment: Some(&ProcessEnvironment),
                ..Sources::defaults()
            };
            sources.read_file(path)?;
            let config = load(sources)?.config;
            address.get_or_insert_with(|| dialled(config.listen.admin));
            let own = config.admin.token.as_ref().and_then(|token| token.expose());
            token = token.or_else(|| own.map(str::to_owned));
        }
        let base = server_url("--admin", address.as_deref().unwrap_or(ADMIN))?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build();
        Ok(Self {
            http: http.map_err(Failure::failed)?,
            base,
            token,
        })
    }

    /// Returns what the node knows of its cluster.
    pub(crate) async fn status(&self) -> anyhow::Result<ClusterStatus> {
        let body = self.ask(Method::GET, "v1/status", None).await?;
        serde_json::from_value(body).context("the node's status is not what was expected")
    }

    /// Has something done.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let url = self
            .base
            .join(path)
            .context("the node's address has no path")?;
        let mut request = self.http.request(method, url).timeout(ANSWER);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await;
        let response = response.with_context(|| format!("no answer from {}", self.base))?;
        let status = response.status();
        let body = response.bytes().await.context("the answer broke off")?;
        if status.is_success() {
            return serde_json::from_slice(&body).context("the answer is not JSON");
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal {
                error,
                remedy: Some(remedy),
            }) => anyhow::bail!("{error}: {remedy}"),
            Ok(Refusal {
                error,
                remedy: None,
            }) => anyhow::bail!("{error}"),
            Err(_) => anyhow::bail!("{} answered {status}", self.base),
        }
    }
}
