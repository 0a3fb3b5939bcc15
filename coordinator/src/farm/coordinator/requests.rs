//! The answers of the coordinator to the requests of operators.

use std::fs;

use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{JobId, WorkerId};
use latentfarm_common::nats::storage;
use latentfarm_common::nats::subjects::{COORDINATOR_INBOX, FARM_QUESTIONS, OBSERVER_INBOX, OPERATOR_INBOX};
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::WorkerCommand;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::deliveries::check_name;
use super::{Coordinator, now_ms};
use crate::dispatch::{Order, command};
use crate::farm::error::ServeError;
use crate::farm::messages::{
    Control, Delivery, FarmReply, FarmRequest, JobPhase, MAX_TEXT_BYTES, Submission,
};
use crate::farm::registry::{Entry, Refusal};
use crate::farm::result;
use crate::job::manifest;
use crate::job::segments::VideoNews;
use crate::journal;
use crate::render::NoStorage;

/// The most bytes of a journal in one answer, which stays below the limit of a message.
const JOURNAL_PAGE: usize = 512 << 10;

impl Coordinator<'_> {
    pub(super) async fn on_request(&mut self, request: &async_nats::Message) -> Result<(), ServeError> {
        let answer_to = request.reply.clone().filter(|subject| is_inbox(subject));
        let Some(answer_to) = answer_to else {
            return Ok(());
        };
        // Another coordinator may have the farm. Its answer is the right one.
        if !self.lease.is_held() {
            return Ok(());
        }
        let may_only_ask = request.subject.as_str() == FARM_QUESTIONS;
        let reply = match wire::decode::<FarmRequest>(&request.payload) {
            Ok(request) if may_only_ask && !request.is_question() => FarmReply::Refused {
                reason: "an observer may only ask: use the operator's key".to_owned(),
            },
            Ok(request) => self.answer(request).await?,
            Err(error) => FarmReply::Refused {
                reason: format!("the coordinator cannot read the request: {}", one_line(&error)),
            },
        };
        match wire::encode(&reply) {
            // One that asked and went away needs no answer.
            Ok(payload) => drop(
                self.farm
                    .connection
                    .client
                    .publish(answer_to, payload.into())
                    .await,
            ),
            Err(error) => tracing::warn!(error = one_line(&error), "an answer cannot be encoded"),
        }
        Ok(())
    }

    async fn answer(&mut self, request: FarmRequest) -> Result<FarmReply, ServeError> {
        let answered = match request {
            FarmRequest::Announce {
                job,
                store_bytes,
                video,
            } => return Ok(self.announce(job, store_bytes, video).await),
            FarmRequest::Submit(submission) => return self.submit(*submission).await,
            FarmRequest::Control { job, control } => return self.control(job, control).await,
            FarmRequest::Delete { job } => return Ok(self.delete(job).await),
            FarmRequest::Fetched { job } => match self.registry.on_fetched(job, now_ms()) {
                Ok(is_new) => return self.stored(job, is_new).await,
                Err(refusal) => Err(refusal),
            },
            FarmRequest::VideoFailed { job, reason } => {
                if let Some(news) = self.videos.get(&job) {
                    // The attempt may just have ended.
                    let _ended = news.send(VideoNews::Failed { reason });
                }
                self.registry.view(job, now_ms())
            }
            FarmRequest::Show { job } => self.registry.view(job, now_ms()),
            FarmRequest::Watch { job } => {
                self.watchers.watch(job, Instant::now());
                self.registry.view(job, now_ms())
            }
            FarmRequest::Journal { job, offset } => return Ok(self.journal(job, offset).await),
            FarmRequest::Drain { worker } => return Ok(self.drain(worker).await),
            FarmRequest::List(filter) => {
                let (jobs, total, outlook) = self.registry.list(&filter, now_ms());
                return Ok(FarmReply::Jobs { jobs, total, outlook });
            }
        };
        Ok(reply(answered.map(Box::new).map(FarmReply::Job)))
    }

    /// Looks whether the result of a complete job is still stored, and notes it if it is not.
    async fn look_at_result(&mut self, job: JobId) {
        let is_complete = |entry: &Entry| entry.record.phase == JobPhase::Complete;
        if self.registry.get(job).is_ok_and(is_complete)
            && matches!(result::is_there(self.farm, job).await, Ok(false))
        {
            tracing::warn!(%job, "a part of the result of a complete job is no longer stored");
            self.registry.on_lost(job);
            self.unsaved.insert(job);
        }
    }

    async fn announce(&mut self, job: JobId, store_bytes: u64, video: Digest) -> FarmReply {
        // Results that somebody has are removed in time; nobody needs them again.
        let is_had =
            |entry: &Entry| entry.record.fetched_ms.is_some() || entry.record.delivery == Delivery::Done;
        if !self.registry.get(job).is_ok_and(is_had) {
            self.look_at_result(job).await;
        }
        match self.registry.view(job, now_ms()) {
            Ok(view) if view.record.phase == JobPhase::Complete || !view.record.phase.is_over() => {
                FarmReply::Job(Box::new(view))
            }
            _ => {
                let room = match storage::media_room(&self.farm.connection.context).await {
                    Ok(room) => room,
                    Err(error) => {
                        let reason = one_line(&error);
                        return FarmReply::Refused { reason };
                    }
                };
                let promised_bytes = self.registry.outstanding_bytes();
                match NoStorage::check(store_bytes, promised_bytes, room) {
                    Ok(()) => {
                        self.coming.insert(job, Instant::now());
                        let same_video = self.registry.with_video(video, job);
                        FarmReply::Room { same_video }
                    }
                    Err(error) => {
                        let reason = one_line(&error);
                        if room.is_some_and(|room| room.limit_bytes < store_bytes) {
                            return FarmReply::Refused { reason };
                        }
                        // Room is made if there is something to remove.
                        self.wanted_bytes = store_bytes.saturating_add(promised_bytes);
                        self.next_look = Instant::now();
                        FarmReply::Full { reason }
                    }
                }
            }
        }
    }

    async fn submit(&mut self, submission: Submission) -> Result<FarmReply, ServeError> {
        let Submission { spec, order } = submission;
        let job = spec.id;
        if [&order.name, &order.submitter, &order.extension, &order.weights]
            .iter()
            .any(|text| text.len() > MAX_TEXT_BYTES)
        {
            return Ok(FarmReply::Refused {
                reason: format!("a name is longer than {MAX_TEXT_BYTES} bytes"),
            });
        }
        if let Some(name) = &order.deliver
            && let Err(error) = check_name(self.output_root.as_deref(), name, &order.extension)
        {
            return Ok(FarmReply::Refused {
                reason: one_line(&error),
            });
        }
        if let Err(error) = manifest::store_on_farm(&self.farm.connection, &spec).await {
            return Ok(FarmReply::Refused {
                reason: one_line(&error),
            });
        }
        let is_new = match self.registry.submit(job, spec.frames, order, now_ms()) {
            Ok(is_new) => is_new,
            Err(refusal) => return Ok(reply(Err(refusal))),
        };
        self.coming.remove(&job);
        if is_new {
            tracing::info!(%job, "submitted");
            self.unsaved_orders.insert(job);
        }
        // Whoever submits a job and watches it misses nothing.
        self.watchers.watch(job, Instant::now());
        self.stored(job, is_new).await
    }

    async fn control(&mut self, job: JobId, control: Control) -> Result<FarmReply, ServeError> {
        if control == Control::Retry {
            self.look_at_result(job).await;
        }
        let has_changed = match self.registry.control(job, control, now_ms()) {
            Ok(has_changed) => has_changed,
            Err(refusal) => return Ok(reply(Err(refusal))),
        };
        if has_changed {
            tracing::info!(%job, ?control, "an operator has changed a job");
            if self.registry.get(job).is_ok_and(|entry| entry.is_dispatched) {
                let order = match control {
                    Control::Pause => Order::Pause { job, is_paused: true },
                    Control::Resume => Order::Pause {
                        job,
                        is_paused: false,
                    },
                    Control::Cancel => Order::Cancel(job),
                    Control::SetPriority(priority) => Order::SetPriority { job, priority },
                    // A job that was retried is not on the dispatcher.
                    Control::Retry => return self.stored(job, has_changed).await,
                };
                // The dispatcher may be ending.
                let _not_taken = self.orders.send(order);
            }
        }
        self.stored(job, has_changed).await
    }

    /// Forgets a job that is over, with what the farm has of it. Its blobs go when they are old enough: other jobs
    /// may have the same.
    pub(super) async fn delete(&mut self, job: JobId) -> FarmReply {
        let is_over = self.registry.get(job).map(|entry| entry.record.phase.is_over());
        if is_over == Ok(true)
            && let Err(error) = self.records.remove(job).await
        {
            return FarmReply::Refused {
                reason: format!("the farm's server did not forget the job: {}", one_line(&error)),
            };
        }
        match self.registry.remove(job) {
            Ok(()) => {
                tracing::info!(%job, "an operator has deleted a job");
                self.unsaved.remove(&job);
                self.unsaved_orders.remove(&job);
                // It may never have had a journal.
                let _absent = fs::remove_dir_all(self.folder_of(job));
                FarmReply::Deleted
            }
            Err(refusal) => reply(Err(refusal)),
        }
    }

    /// Asks a worker to end. Whoever wants that knows by its heartbeats whether it is there, and when it has ended.
    async fn drain(&self, worker: WorkerId) -> FarmReply {
        tracing::info!(%worker, "an operator drains a worker");
        match command::send(&self.farm.connection, Some(worker), &WorkerCommand::Drain).await {
            Ok(()) => FarmReply::DrainSent,
            Err(error) => FarmReply::Refused {
                reason: format!("the worker cannot be asked to end: {}", one_line(error.as_ref())),
            },
        }
    }

    /// Answers with lines of a job's journal.
    async fn journal(&self, job: JobId, offset: u64) -> FarmReply {
        if let Err(refusal) = self.registry.get(job) {
            return reply(Err(refusal));
        }
        let folder = self.folder_of(job);
        let page = spawn_blocking(move || journal::page(&folder, offset, JOURNAL_PAGE)).await;
        match page.map_err(std::io::Error::other).flatten() {
            Ok((text, next)) => FarmReply::Journal { text, next },
            Err(error) => FarmReply::Refused {
                reason: format!("the journal of the job cannot be read: {}", one_line(&error)),
            },
        }
    }

    /// Answers with the job, once its change is stored.
    async fn stored(&mut self, job: JobId, has_changed: bool) -> Result<FarmReply, ServeError> {
        if has_changed {
            self.unsaved.insert(job);
            self.save().await?;
        }
        if self.unsaved.contains(&job) {
            return Ok(FarmReply::Refused {
                reason: "the farm's server did not store the change yet, and the coordinator tries again: ask for the \
                         job's status in a moment"
                    .to_owned(),
            });
        }
        Ok(reply(
            self.registry
                .view(job, now_ms())
                .map(Box::new)
                .map(FarmReply::Job),
        ))
    }
}

/// Whether a subject is one that answers are sent to. Whoever may ask must not make the coordinator, which may
/// do more, publish anywhere else.
fn is_inbox(subject: &str) -> bool {
    [OPERATOR_INBOX, OBSERVER_INBOX, COORDINATOR_INBOX]
        .iter()
        .any(|inbox| {
            subject
                .strip_prefix(inbox)
                .is_some_and(|rest| rest.starts_with('.'))
        })
}

/// Turns a refusal into an answer.
fn reply(answered: Result<FarmReply, Refusal>) -> FarmReply {
    answered.unwrap_or_else(|refusal| match refusal {
        Refusal::NoSuchJob(job) => FarmReply::NoSuchJob { job },
        refusal => FarmReply::Refused {
            reason: one_line(&refusal),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_inboxes_alone() {
        for inbox in [OPERATOR_INBOX, OBSERVER_INBOX, COORDINATOR_INBOX] {
            assert!(is_inbox(&format!("{inbox}.a.b")));
        }
        for subject in [
            "$JS.API.STREAM.DELETE.FARM_DONE",
            "$KV.farm-jobs.0123456789abcdef.record",
            "farm.ctl.all",
            "_INBOX_op_x",
            "",
        ] {
            assert!(!is_inbox(subject), "{subject}");
        }
    }
}
