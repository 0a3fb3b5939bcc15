//! How the workers of this machine come to the farm: by a join file, or by an address with a key in the environment.

use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::join::JoinFile;
use latentfarm_common::nats::{Identity, Role};
use latentfarm_common::tags::{Tags, TooManyTags};
use latentfarm_common::waiting::rough_time;

use super::args::RunArgs;

/// A key that expires in less than this is worth a word.
const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// The address of the farm's server, and as whom to connect.
pub(super) enum Access {
    Joined(JoinFile),
    /// The key and the certificate are in the environment.
    Named {
        url: String,
    },
}

impl Access {
    pub(super) fn from_args(args: &RunArgs) -> anyhow::Result<Self> {
        if let Some(url) = &args.nats {
            return Ok(Self::Named { url: url.clone() });
        }
        let path = args.join.as_ref().context("give --join or --nats")?;
        let join = JoinFile::read(path)?;
        if join.valid_for() < EXPIRES_SOON {
            tracing::warn!(
                "the key in `{}` expires in {}: whoever runs the farm makes another with `latentfarm revoke {name}` and \
                 `latentfarm invite {name}`",
                path.display(),
                rough_time(join.valid_for()),
                name = join.name
            );
        }
        Ok(Self::Joined(join))
    }

    pub(super) fn url(&self) -> &str {
        match self {
            Self::Joined(join) => &join.url,
            Self::Named { url } => url,
        }
    }

    /// Returns the tags of the workers: those of the join file and those of the arguments.
    pub(super) fn tags(&self, args: &RunArgs) -> Result<Tags, TooManyTags> {
        let invited = match self {
            Self::Joined(join) => Some(&join.tags),
            Self::Named { .. } => None,
        };
        let invited = invited.into_iter().flat_map(Tags::iter);
        Tags::new(invited.chain(args.tag.iter().copied()))
    }

    /// Returns as whom the worker of this name connects.
    pub(super) fn identity(&self, worker: &WorkerId) -> anyhow::Result<Identity> {
        match self {
            Self::Joined(join) => join
                .identity(worker)
                .context("cannot keep the certificate in memory"),
            Self::Named { .. } => {
                let role = Role::Worker(worker.clone());
                Ok(Identity::from_environment(role, worker.to_string()))
            }
        }
    }
}
