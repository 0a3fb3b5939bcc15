//! How far a mouth is open.

use serde::{Deserialize, Serialize};

/// The opening of the inner lips of one face in one frame, over the distance of the centres of its eyes, in
/// thousandths: 0 for closed lips, about 150 for an open vowel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LipOpening(pub u16);

impl LipOpening {
    /// Makes an opening from the share of the eyes' distance; what no face shows is clamped.
    pub fn from_share(share: f32) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the range of the type; NaN gives 0"
        )]
        let thousandths = (share * 1000.0).round().clamp(0.0, f32::from(u16::MAX)) as u16;
        Self(thousandths)
    }

    /// Returns the share of the eyes' distance.
    pub fn share(self) -> f32 {
        f32::from(self.0) / 1000.0
    }
}
