//! The users of one farm's server and their keys.

use nkeys::KeyPair;

use super::error::ServerError;
use crate::ids::WorkerId;
use crate::nats::connect::Identity;
use crate::nats::role::Role;

/// A user of the server.
pub(super) struct Account {
    pub(super) role: Role,
    /// The secret half of the key, which the user signs with.
    pub(super) seed: String,
    /// The public half, which the server checks the signature with.
    pub(super) public_key: String,
}

impl Account {
    /// A user with a new key.
    pub(super) fn make(role: Role) -> Result<Self, ServerError> {
        Self::new(role, &KeyPair::new_user()).map_err(ServerError::Key)
    }

    /// A user with the key of this seed.
    pub(super) fn from_seed(role: Role, seed: &str) -> Result<Self, nkeys::error::Error> {
        Self::new(role, &KeyPair::from_seed(seed)?)
    }

    fn new(role: Role, pair: &KeyPair) -> Result<Self, nkeys::error::Error> {
        Ok(Self {
            role,
            seed: pair.seed()?,
            public_key: pair.public_key(),
        })
    }

    pub(super) fn identity(&self) -> Identity {
        Identity {
            role: self.role.clone(),
            nkey_seed: Some(self.seed.clone()),
            name: self.role.to_string(),
        }
    }
}

/// The users of an embedded server, with keys that exist only in memory.
pub(super) struct Accounts {
    pub(super) coordinator: Account,
    pub(super) observer: Account,
    workers: Vec<Account>,
}

impl Accounts {
    pub(super) fn make(workers: &[WorkerId]) -> Result<Self, ServerError> {
        let workers = workers.iter().map(|id| Account::make(Role::Worker(id.clone())));
        Ok(Self {
            coordinator: Account::make(Role::Coordinator)?,
            observer: Account::make(Role::Observer)?,
            workers: workers.collect::<Result<_, ServerError>>()?,
        })
    }

    pub(super) fn worker(&self, worker: &WorkerId) -> Option<&Account> {
        let role = Role::Worker(worker.clone());
        self.workers.iter().find(|account| account.role == role)
    }

    pub(super) fn all(&self) -> Vec<&Account> {
        [&self.coordinator, &self.observer]
            .into_iter()
            .chain(&self.workers)
            .collect()
    }
}
