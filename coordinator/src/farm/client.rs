//! Asks the coordinator of a farm, for the operators' commands.

use std::time::Duration;

use async_nats::RequestErrorKind;
use bytes::Bytes;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{JobId, WorkerId};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::subjects::{FARM_QUESTIONS, FARM_REQUESTS};
use latentfarm_common::wire::{self, WireError};
use tokio::time::Instant;

use super::messages::{Control, FarmReply, FarmRequest, JobView, ListFilter, Outlook};

/// How long a coordinator may take for an answer. It may have to store something first.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// How long a question that nobody listens for is repeated: after an outage of the server, a coordinator may be back a
/// little later than whoever asks.
const ABSENCE_LIMIT: Duration = Duration::from_secs(5);
const ABSENCE_CHECK: Duration = Duration::from_millis(250);

/// A farm to whose server this process is connected.
#[derive(Clone, Debug)]
pub struct FarmClient {
    connection: Connection,
    /// Subject of the requests.
    subject: &'static str,
}

/// What the farm has of a job that is about to be submitted.
#[derive(Debug)]
pub(super) enum Announced {
    /// The job is there and not to be submitted again.
    Known(Box<JobView>),
    /// It is not there, and there is room for it. These other jobs have the same video.
    New { same_video: Vec<JobId> },
}

/// Why there is no answer, or another one than was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no coordinator is at work on the farm at {url}: start one with `latentfarm serve --nats {url}`")]
    NoCoordinator { url: String },
    #[error("the coordinator of the farm at {url} did not answer within {} s", ANSWER_LIMIT.as_secs())]
    NoAnswer { url: String },
    #[error("cannot ask the coordinator")]
    Request(#[source] async_nats::RequestError),
    #[error("cannot listen to the news of the job")]
    Subscribe(#[source] async_nats::SubscribeError),
    #[error("cannot read the coordinator's answer")]
    Wire(#[from] WireError),
    #[error("the farm has no job {job}: `latentfarm jobs` lists those that it has")]
    NoSuchJob { job: JobId },
    #[error("{reason}")]
    Full { reason: String },
    #[error("{reason}")]
    Refused { reason: String },
    #[error("the coordinator gave the answer to another question")]
    OtherAnswer,
}

impl ClientError {
    /// Whether the request itself was refused, so that another one may succeed.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NoSuchJob { .. } | Self::Full { .. } | Self::Refused { .. }
        )
    }

    /// Whether the same request may succeed later, as no coordinator answered.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NoCoordinator { .. } | Self::NoAnswer { .. } | Self::Request(_)
        )
    }
}

impl FarmClient {
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            subject: FARM_REQUESTS,
        }
    }

    /// Makes a client of a process that is connected as an observer, who may only ask.
    pub fn observing(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            subject: FARM_QUESTIONS,
        }
    }

    /// Asks whether the farm has this job of a video, and room for so many bytes of it.
    pub(super) async fn announce(
        &self,
        job: JobId,
        store_bytes: u64,
        video: Digest,
    ) -> Result<Announced, ClientError> {
        let request = FarmRequest::Announce {
            job,
            store_bytes,
            video,
        };
        match self.ask(&request).await? {
            FarmReply::Room { same_video } => Ok(Announced::New { same_video }),
            other => job_of(other).map(Box::new).map(Announced::Known),
        }
    }

    /// Sends a request whose answer is a job.
    pub async fn job(&self, request: &FarmRequest) -> Result<JobView, ClientError> {
        job_of(self.ask(request).await?)
    }

    /// Returns how a job stands.
    pub async fn show(&self, job: JobId) -> Result<JobView, ClientError> {
        self.job(&FarmRequest::Show { job }).await
    }

    /// Returns how a job stands, and lets its events be published for a time.
    pub(super) async fn watch(&self, job: JobId) -> Result<JobView, ClientError> {
        self.job(&FarmRequest::Watch { job }).await
    }

    /// Changes a job, and returns how it stands then.
    pub async fn control(&self, job: JobId, control: Control) -> Result<JobView, ClientError> {
        self.job(&FarmRequest::Control { job, control }).await
    }

    /// Lets the farm forget a job that is over.
    pub async fn delete(&self, job: JobId) -> Result<(), ClientError> {
        match self.ask(&FarmRequest::Delete { job }).await? {
            FarmReply::Deleted => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// Asks a worker to finish what it has begun, and then to end.
    pub async fn drain(&self, worker: WorkerId) -> Result<(), ClientError> {
        match self.ask(&FarmRequest::Drain { worker }).await? {
            FarmReply::DrainSent => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// Returns a page of jobs, with the number and the outlook of all that the filter selects.
    pub async fn list(&self, filter: ListFilter) -> Result<(Vec<JobView>, usize, Outlook), ClientError> {
        match self.ask(&FarmRequest::List(filter)).await? {
            FarmReply::Jobs { jobs, total, outlook } => Ok((jobs, total, outlook)),
            other => Err(refused(other)),
        }
    }

    /// Returns the lines of a job's journal, which has the reasons of each placement.
    pub async fn journal(&self, job: JobId) -> Result<String, ClientError> {
        let mut lines = String::new();
        let mut offset = Some(0);
        while let Some(from) = offset {
            match self.ask(&FarmRequest::Journal { job, offset: from }).await? {
                FarmReply::Journal { text, next } => {
                    lines.push_str(&text);
                    offset = next;
                }
                other => return Err(refused(other)),
            }
        }
        Ok(lines)
    }

    async fn ask(&self, request: &FarmRequest) -> Result<FarmReply, ClientError> {
        let payload = Bytes::from(wire::encode(request)?);
        let begun = Instant::now();
        loop {
            match self.ask_once(payload.clone()).await {
                Err(ClientError::NoCoordinator { .. }) if begun.elapsed() < ABSENCE_LIMIT => {
                    tokio::time::sleep(ABSENCE_CHECK).await;
                }
                answer => return answer,
            }
        }
    }

    async fn ask_once(&self, payload: Bytes) -> Result<FarmReply, ClientError> {
        let url = || self.connection.url().to_owned();
        let answer = self.connection.client.request(self.subject, payload);
        let answer = match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                return Err(ClientError::NoCoordinator { url: url() });
            }
            Ok(Err(error)) if error.kind() != RequestErrorKind::TimedOut => {
                return Err(ClientError::Request(error));
            }
            Ok(Err(_)) | Err(_) => return Err(ClientError::NoAnswer { url: url() }),
        };
        Ok(wire::decode(&answer.payload)?)
    }
}

fn job_of(reply: FarmReply) -> Result<JobView, ClientError> {
    match reply {
        FarmReply::Job(view) => Ok(*view),
        other => Err(refused(other)),
    }
}

fn refused(reply: FarmReply) -> ClientError {
    match reply {
        FarmReply::NoSuchJob { job } => ClientError::NoSuchJob { job },
        FarmReply::Full { reason } => ClientError::Full { reason },
        FarmReply::Refused { reason } => ClientError::Refused { reason },
        FarmReply::Room { .. }
        | FarmReply::Job(_)
        | FarmReply::Jobs { .. }
        | FarmReply::Journal { .. }
        | FarmReply::Deleted
        | FarmReply::DrainSent => ClientError::OtherAnswer,
    }
}
