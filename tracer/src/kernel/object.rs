//! The eBPF object as the running kernel takes it.

use tracer_common::functions;

use super::btf::Btf;

/// The eBPF object that this binary was built with.
#[cfg(ebpf_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("TRACER_EBPF_OBJECT")));
/// Plain `cargo build` embeds none.
#[cfg(not(ebpf_object))]
const OBJECT: Option<&[u8]> = None;

/// Bytes of an instruction.
const INSTRUCTION_LEN: usize = 8;

/// An object, aligned as its reader wants it.
pub(super) struct Object(Vec<u64>);

impl Object {
    /// The object with the ids of the kernel's functions in the place of their placeholders. Where the kernel has none,
    /// the programs do not come to the call: it hangs on an offset that is absent then. `None` where the binary has no
    /// object.
    pub(super) fn for_kernel(vmlinux: &Btf) -> Option<Self> {
        let words = OBJECT?.chunks(INSTRUCTION_LEN).map(|chunk| {
            let mut word = [0; INSTRUCTION_LEN];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        let mut words: Vec<u64> = words.collect();
        for (placeholder, name) in functions::ALL {
            if let Some(id) = vmlinux.function(name) {
                name_function(&mut words, placeholder, id);
            }
        }
        Some(Self(words))
    }

    /// Its bytes; up to seven zeros follow them.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the same memory, of which every byte is a value.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * INSTRUCTION_LEN) }
    }
}

/// Turns calls of a helper that does not exist into calls of a function by the id of its type.
fn name_function(words: &mut [u64], placeholder: i32, id: u32) {
    let (from, to) = (call(HELPER, placeholder), call(FUNCTION, id.cast_signed()));
    for word in words.iter_mut().filter(|word| **word == from) {
        *word = to;
    }
}

/// `src_reg` of a call of a helper.
const HELPER: u8 = 0;
/// `BPF_PSEUDO_KFUNC_CALL`, `include/uapi/linux/bpf.h`
const FUNCTION: u8 = 2;

/// The instruction `BPF_JMP | BPF_CALL`.
fn call(source: u8, what: i32) -> u64 {
    const CALL: u8 = 0x85;

    let [a, b, c, d] = what.to_ne_bytes();
    u64::from_ne_bytes([CALL, source << 4, 0, 0, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_placeholder_becomes_a_call_of_the_function() {
        let other = call(HELPER, functions::CAST + 1);
        let mut words = [call(HELPER, functions::CAST), other, 0];
        name_function(&mut words, functions::CAST, 77);
        assert_eq!(
            words,
            [u64::from_ne_bytes([0x85, 0x20, 0, 0, 77, 0, 0, 0]), other, 0]
        );
    }
}
