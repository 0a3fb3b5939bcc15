//! Merges everything that reaches the dispatcher into one channel: heartbeats, events and done records from
//! the farm, and the segments of source videos.

use std::collections::BTreeMap;

use latentfarm_common::ids::JobId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::DispatchError;
use super::farm_link::FarmLink;
use super::farm_message::FarmMessage;
use crate::job::segments::VideoNews;

/// The number of messages that may wait for the dispatcher; further ones stay in the client's buffers.
const CAPACITY: usize = 1024;

/// The tasks that receive messages from the farm. They end when the inbox is dropped.
pub(super) struct Inbox {
    pub(super) messages: mpsc::Receiver<FarmMessage>,
    sender: mpsc::Sender<FarmMessage>,
    /// The heartbeats of all workers.
    _heartbeats: JoinSet<()>,
    /// Each job's events and done records.
    jobs: BTreeMap<JobId, JoinSet<()>>,
}

impl Inbox {
    /// Subscribes to the heartbeats of all workers.
    pub(super) async fn open(link: &dyn FarmLink) -> Result<Self, DispatchError> {
        let (sender, messages) = mpsc::channel(CAPACITY);
        Ok(Self {
            messages,
            _heartbeats: link.follow_workers(sender.clone()).await?,
            sender,
            jobs: BTreeMap::new(),
        })
    }

    /// Follows a job's done records from the sequence number `first_done` on, and its new events.
    pub(super) async fn follow(
        &mut self,
        link: &dyn FarmLink,
        job: JobId,
        first_done: u64,
    ) -> Result<(), DispatchError> {
        let followers = link.follow_job(job, first_done, self.sender.clone()).await?;
        self.jobs.insert(job, followers);
        Ok(())
    }

    /// Follows the cut of a job's source video.
    pub(super) fn follow_video(&mut self, job: JobId, mut video: mpsc::UnboundedReceiver<VideoNews>) {
        let sender = self.sender.clone();
        self.jobs.entry(job).or_default().spawn(async move {
            while let Some(news) = video.recv().await {
                if sender.send(FarmMessage::Video { job, news }).await.is_err() {
                    break;
                }
            }
        });
    }

    /// Stops following a job that has ended.
    pub(super) fn unfollow(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }
}
