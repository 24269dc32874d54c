//! Which instructions a call uses.

use qkv::Tier;

use crate::error::{ERROR_OPTION, Refusal};

/// The fastest of this processor.
pub const TIER_BEST: u32 = 0;
/// One number at a time, as a microcontroller does it: the same bits as there, unless that was built with `qkv_fma`.
pub const TIER_SCALAR: u32 = 1;
/// What every processor of the build's target has: the same bits again, in vectors.
pub const TIER_PORTABLE: u32 = 2;

pub fn tier(which: u32) -> Result<Option<Tier>, Refusal> {
    match which {
        TIER_BEST => Ok(None),
        TIER_SCALAR => Ok(Some(Tier::scalar())),
        TIER_PORTABLE => Ok(Some(Tier::portable())),
        other => Err(Refusal::new(ERROR_OPTION, "tier", TIER_PORTABLE as usize, other as usize)),
    }
}
