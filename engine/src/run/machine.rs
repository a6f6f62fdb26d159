//! What the machine must offer before anything is started, asked in one place and answered in words.

use millstream_network::probe;

use super::fault::JobError;
use crate::job::config::Config;

/// That shards can have their rings.
pub(crate) fn check() -> Result<(), JobError> {
    probe::uring_available().map_err(|error| JobError::Machine(error.to_string()))
}

/// The core of each shard, or none where shards outnumber cores and float.
pub(crate) fn cores(config: &Config, shards: u32) -> Result<Vec<usize>, JobError> {
    let shards = shards as usize;
    if !(1..=4096).contains(&shards) {
        return Err(JobError::Unusable(format!("{shards} shards: a job runs on 1 to 4096")));
    }
    let allowed = probe::cpuset();
    if config.cores.is_empty() {
        return Ok(if shards <= allowed.len() { allowed[..shards].to_vec() } else { Vec::new() });
    }
    if let Some(core) = config.cores.iter().find(|core| !allowed.contains(core)) {
        return Err(JobError::Unusable(format!(
            "core {core} is not among those this process may use ({}): choose from these, or widen the cpuset (taskset, \
             cgroup cpuset.cpus, systemd AllowedCPUs=)",
            list(&allowed)
        )));
    }
    if config.cores.len() < shards {
        return Err(JobError::Unusable(format!(
            "{shards} shards and only {} cores named ({}): name a core for each shard, or none to choose for you",
            config.cores.len(),
            list(&config.cores)
        )));
    }
    Ok(config.cores[..shards].to_vec())
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
