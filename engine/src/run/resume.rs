//! From which checkpoint an attempt goes on, whether there is another attempt at all, and what earlier ones have left.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use millstream_state::{Epoch, JobSchemas, Manifest, Newest, Savepoint, StoreError};

use super::fault::JobError;
use super::process::{Lead, unusable};
use crate::job::fit::judge;

impl Lead {
    /// Waits as the restart strategy says, or fails for good.
    fn wait_for_restart(&mut self, why: String, is_final: bool) -> Result<(), JobError> {
        self.restarts_in_a_row += 1;
        let delay = self.config.restart.delay(self.restarts_in_a_row).filter(|_| !is_final);
        let restarts = self.restarts.len() as u32;
        let Some(delay) = delay else { return Err(JobError::Failed { cause: why, restarts }) };
        if self.stop.load(Ordering::Relaxed) {
            return Err(JobError::Failed { cause: why, restarts });
        }
        tracing::warn!(why, delay_ms = delay.as_millis() as u64, "the job failed and will restart");
        self.restarts.push(why);
        thread::park_timeout(delay);
        Ok(())
    }

    /// Waits, then looks for the checkpoint to go on from; while the store cannot be asked, that is a failure like another.
    pub(super) fn restart(&mut self, mut why: String, mut is_final: bool) -> Result<Option<Arc<Manifest>>, JobError> {
        loop {
            self.wait_for_restart(why, is_final)?;
            match self.newest_before(None) {
                Ok(newest) => return self.believe(newest),
                Err(error) => (why, is_final) = (error.to_string(), false),
            }
        }
    }

    /// The checkpoint before one that was found damaged only when it was restored.
    pub(super) fn fall_back(&mut self, damaged: Epoch, why: String) -> Result<Arc<Manifest>, JobError> {
        tracing::warn!(epoch = damaged.0, why, "a checkpoint is damaged; trying the one before it");
        self.checkpoints.rejected.push(format!("the checkpoint of epoch {}: {why}", damaged.0));
        let newest = self.newest_before(Some(damaged)).map_err(unusable)?;
        self.believe(newest)?.ok_or(JobError::Damaged(why))
    }

    /// The newest checkpoint that proves sound, of all or of those before one.
    pub(super) fn newest_before(&mut self, epoch: Option<Epoch>) -> Result<Newest, StoreError> {
        self.start_began = self.clock.now();
        let Some(store) = &self.store else {
            return Ok(Newest { manifest: None, rejected: Vec::new(), highest: Epoch(0) });
        };
        let newest = store.newest_before(epoch)?;
        self.highest = newest.highest;
        Ok(newest)
    }

    /// The checkpoint that was found, if it is of this job.
    pub(super) fn believe(&mut self, newest: Newest) -> Result<Option<Arc<Manifest>>, JobError> {
        let Some(store) = &self.store else { return self.begin() };
        for rejected in &newest.rejected {
            tracing::warn!(path = %rejected.path.display(), why = %rejected.why, "a checkpoint is not believed; trying the one before it");
            self.checkpoints.rejected.push(format!("{}: {}", rejected.path.display(), rejected.why));
        }
        self.savepoint = None;
        let Some(manifest) = newest.manifest else {
            return match newest.rejected.first() {
                Some(rejected) => Err(JobError::Unusable(format!(
                    "none of the checkpoints in {} can be believed; of the newest, {}: {}. Nothing was changed. Mend or \
                     move the directory away, or name an empty one to begin anew",
                    store.directory().display(),
                    rejected.path.display(),
                    rejected.why
                ))),
                None => self.begin(),
            };
        };
        let dir = store.directory().display();
        if manifest.job != self.name {
            return Err(JobError::Mismatch(format!(
                "{dir} holds checkpoints of job \"{}\", and this is job \"{}\": name another directory",
                manifest.job, self.name
            )));
        }
        let wanted = self.plan.schemas(&self.name);
        let stored = JobSchemas::of_manifest(&manifest);
        judge(&manifest, &stored, &self.plan, &wanted, self.config.allow_dropped).map_err(|what| {
            let of = format!("the checkpoint of epoch {} in {dir}", manifest.epoch.0);
            self.misfit(&of, &what, &manifest)
        })?;
        if let Some(savepoint) = self.config.from_savepoint.as_ref().filter(|_| self.restarts.is_empty()) {
            tracing::warn!(
                epoch = manifest.epoch.0,
                savepoint = %savepoint.display(),
                "the job goes on from its own checkpoint, and not from the savepoint; to begin at the savepoint again, name \
                 an empty place for checkpoints"
            );
        }
        Ok(Some(Arc::new(manifest)))
    }

    /// Deletes what attempts have left that ended in the middle. Only now, when every shard has taken the checkpoint for its
    /// own: a job that refuses to start changes nothing. And before the first snapshot, which nothing names yet either.
    pub(super) fn sweep_once(&mut self) {
        let Some(store) = self.store.as_ref().filter(|_| !self.is_swept) else { return };
        self.is_swept = true;
        match store.sweep() {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "files of attempts that ended in the middle were deleted"),
            Err(error) => tracing::warn!(%error, "files of attempts that ended in the middle could not be deleted"),
        }
    }

    /// Where a job begins that has no checkpoint yet: at a savepoint, or at the beginning.
    fn begin(&mut self) -> Result<Option<Arc<Manifest>>, JobError> {
        let Some(place) = &self.config.from_savepoint else { return Ok(None) };
        let savepoint =
            Savepoint::open(place, &self.config.store).map_err(|error| JobError::Unusable(error.to_string()))?;
        let manifest = savepoint.as_manifest();
        let wanted = self.plan.schemas(&self.name);
        let stored = JobSchemas::of_savepoint(savepoint.manifest(), &wanted);
        judge(&manifest, &stored, &self.plan, &wanted, self.config.allow_dropped)
            .map_err(|what| self.misfit(&format!("the savepoint {}", place.display()), &what, &manifest))?;
        tracing::info!(savepoint = %place.display(), epoch = manifest.epoch.0, "the job begins at a savepoint");
        self.savepoint = Some(Arc::new(savepoint));
        Ok(Some(Arc::new(manifest)))
    }

    fn misfit(&self, of: &str, what: &str, manifest: &Manifest) -> JobError {
        let mut text = format!(
            "{of} does not fit this job: {what}. Nothing was changed. Change that, run the version that made it, or name an \
             empty directory to begin anew"
        );
        if manifest.graph_fingerprint != self.plan.fingerprint() {
            let _ = write!(text, ".\nThe checkpoint's graph:\n{}This job's graph:\n{}", manifest.graph, self.plan);
        }
        JobError::Mismatch(text)
    }
}
