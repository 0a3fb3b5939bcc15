//! Joins the segments of a complete job to its output. A render does so when its job is complete, and a farm's
//! job is joined where it is fetched.

use std::path::Path;
use std::sync::Arc;

use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::task::spawn_blocking;

use super::error::RenderError;
use super::event::{Observer, RenderEvent};
use super::finish;
use super::report::Written;
use crate::dispatch::Farm;
use crate::stitch::{self, Assembled, OutputTarget};

/// A complete job, and where its output is written.
pub(crate) struct Join<'a> {
    pub(crate) farm: &'a Farm,
    pub(crate) spec: &'a JobSpec,
    /// The records of all render chunks, in frame order.
    pub(crate) records: &'a [Arc<DoneRecord>],
    /// Folder for copies of what is stored elsewhere.
    pub(crate) scratch: &'a Path,
    pub(crate) target: &'a OutputTarget,
    /// Whether the part of the video after the end of the speech is kept, which has no sound.
    pub(crate) keeps_tail: bool,
}

impl Join<'_> {
    /// Joins the segments and the sound under a temporary name, and verifies the file.
    pub(crate) async fn assemble(&self, observer: &Observer) -> Result<Assembled, RenderError> {
        let (store, spec, records) = (&self.farm.store, self.spec, self.records);
        let mut segments = Vec::with_capacity(records.len());
        for record in records {
            let range = finish::range_of(spec, record);
            let path = store.local_file(&record.artifact, self.scratch).await?;
            segments.push((range, path, record.artifact));
        }
        let sound = store.local_file(&spec.sound.blob, self.scratch).await?;
        let request = finish::stitch_request(spec, records, segments, sound, self.keeps_tail, self.target);
        observer.send(RenderEvent::StitchBegins { frames: spec.frames });
        let observer = observer.clone();
        let work = move || stitch::assemble(&request, &mut |step| observer.send(RenderEvent::Stitch(step)));
        spawn_blocking(work).await?.map_err(RenderError::Stitch)
    }

    /// Gives a verified file its final name.
    pub(crate) async fn commit(&self, assembled: Assembled) -> Result<Written, RenderError> {
        let committed = spawn_blocking(move || assembled.commit()).await?;
        committed.map_err(RenderError::Commit)?;
        Ok(Written {
            path: self.target.path().to_owned(),
            frames_digest: finish::frames_digest(self.records),
            sound: self.spec.sound.treatment.clone(),
        })
    }
}
