use tch::{Device, Kind};

use crate::Vit;

/// Why a model does not compute in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor has no bf16 arithmetic (avx512_bf16), so that bf16 would only be slower: use f32"
)]
pub struct NoBf16;

impl Vit {
    /// The same model with the weights of its modules in bf16, for inference. They and what they make
    /// of their input are bf16; embeddings, norms, gates, classification heads and the residual stream
    /// stay f32, so that errors do not add up over the blocks. [ours]
    ///
    /// # Errors
    /// A processor that would have to emulate bf16.
    pub fn into_bf16(mut self) -> Result<Self, NoBf16> {
        if self.device() == Device::Cpu && !has_bf16() {
            return Err(NoBf16);
        }
        for block in &mut self.blocks {
            if let Some(attn) = &mut block.attn {
                attn.module.qkv.convert(Kind::BFloat16);
                attn.module.proj.convert(Kind::BFloat16);
            }
            if let Some(ffn) = &mut block.ffn {
                ffn.module.fc1.convert(Kind::BFloat16);
                ffn.module.fc2.convert(Kind::BFloat16);
            }
        }
        Ok(self)
    }
}

/// Every processor with AMX tiles for bf16 has these instructions too.
#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
    false
}
