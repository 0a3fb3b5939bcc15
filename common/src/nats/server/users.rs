//! The users of a farm's server and their keys, for the server's configuration and for the clients that sign
//! in.

use nkeys::KeyPair;

use super::error::ServerError;
use crate::ids::WorkerId;
use crate::nats::connect::Identity;
use crate::nats::role::Role;

/// A user of the server.
pub(super) struct User {
    pub(super) role: Role,
    /// The secret half of the key, with which the user signs.
    pub(super) seed: String,
    /// The public half, with which the server checks the signature.
    pub(super) public_key: String,
}

impl User {
    /// Makes a user with a new key.
    pub(super) fn make(role: Role) -> Result<Self, ServerError> {
        Self::new(role, &KeyPair::new_user()).map_err(ServerError::Key)
    }

    /// Makes a user with the key of this seed.
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
pub(super) struct Users {
    pub(super) coordinator: User,
    pub(super) operator: User,
    pub(super) observer: User,
    workers: Vec<User>,
}

impl Users {
    pub(super) fn make(workers: &[WorkerId]) -> Result<Self, ServerError> {
        let workers = workers.iter().map(|id| User::make(Role::Worker(id.clone())));
        Ok(Self {
            coordinator: User::make(Role::Coordinator)?,
            operator: User::make(Role::Operator)?,
            observer: User::make(Role::Observer)?,
            workers: workers.collect::<Result<_, ServerError>>()?,
        })
    }

    pub(super) fn worker(&self, worker: &WorkerId) -> Option<&User> {
        let role = Role::Worker(worker.clone());
        self.workers.iter().find(|user| user.role == role)
    }

    pub(super) fn all(&self) -> Vec<&User> {
        [&self.coordinator, &self.operator, &self.observer]
            .into_iter()
            .chain(&self.workers)
            .collect()
    }
}
