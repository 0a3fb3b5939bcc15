//! Where the speech encoder is tight: in its last block, with the states of all others kept.

use latentfarm_common::wire::memory::MemoryStage;

use super::Term;
use super::place::{Place, bytes};
use crate::boundary::Op;
use crate::cost::op::Details;
use crate::slices::Attention;

const F32: usize = 4;

pub(super) fn terms(place: &Place) -> Vec<Term> {
    let dims = &place.shape.whisper;
    let (rows, width, each) = (dims.n_audio_ctx, dims.n_audio_state, place.each());
    let state = bytes(rows * width, each);
    let mel = bytes(2 * rows * dims.n_mels, F32);
    let states = dims.n_audio_layer as u64 * state;
    let term = |what, tensors| place.term(MemoryStage::Audio, what, 0, mel + states + tensors);

    let sizes = Attention {
        rows: 1,
        heads: dims.n_audio_head,
        queries: rows,
        keys: rows,
    };
    let attend = Op::Attention { sizes, width };
    // The normed input, queries, keys and values.
    let scores = 4 * state + place.cost(attend, Details::default()).peak;
    // Those, what attention gave, the residual; four times as wide inside, before and after the activation.
    let inside = (6 + 8) * state;
    let kept = place.on_host(place.features());
    vec![
        term("attention over the audio window", scores),
        term("feed-forward of the speech encoder", inside),
        term("states of an audio window", state + states + state + kept),
    ]
}
