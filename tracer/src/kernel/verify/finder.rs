//! Finds in the code of `ipt_do_table` or `ip6t_do_table` where it asks whether it has to log a rule.
//!
//! The function has `if (unlikely(skb->nf_trace)) trace_packet(…)` exactly once, after the matches of a rule and
//! before its target (`net/ipv4/netfilter/ip_tables.c`, `net/ipv6/netfilter/ip6_tables.c`), and passes it for each
//! rule whose matches all held, whatever `nf_trace` is. Compilers make one instruction of the question, `testb
//! $bit, offset(%skb)`. Which register has the rule is told twice, and both must agree: by the one place where the
//! function asks for the rule's goto flag, and by the read of `target_offset` that comes just before the question.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use thiserror::Error;

use crate::traversal::Family;

/// Instructions between the read of `target_offset` and the question.
const BETWEEN_MAX: usize = 16;

/// A place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where the instruction begins, in bytes from the beginning of the function.
    pub(super) offset: u64,
    /// The register that holds the packet, as an offset in `struct pt_regs`.
    pub(super) skb: u32,
    /// The register that holds the rule.
    pub(super) entry: u32,
}

/// Why the place is not known.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotFound {
    /// No instruction looks at `nf_trace`: a kernel without the TRACE target, or a compiler that does it otherwise.
    #[error("no instruction of it asks for skb->nf_trace")]
    NoQuestion,
    /// More than one does.
    #[error("{0} instructions of it ask for skb->nf_trace")]
    Questions(usize),
    /// The rule is in no register, or in different ones.
    #[error("its code does not tell which register holds the rule")]
    NoEntry,
    /// The packet or the rule is in a register that does not fit the purpose.
    #[error("it holds the packet or the rule in a register that others may change")]
    Register,
}

/// Where a family's rules have what the function looks at.
#[derive(Clone, Copy)]
struct Layout {
    /// The goto flag: `ipt_entry.ip.flags`, `ip6t_entry.ipv6.flags`, in bits.
    goto_bit: u32,
    /// `ipt_entry.target_offset`, `ip6t_entry.target_offset`
    target_offset: u32,
}

/// These are structures of the user-space interface: `include/uapi/linux/netfilter_ipv4/ip_tables.h`,
/// `include/uapi/linux/netfilter_ipv6/ip6_tables.h`.
const fn layout(family: Family) -> Layout {
    match family {
        // IPT_F_GOTO 0x02
        Family::Ipv4 => Layout {
            goto_bit: 82 * 8 + 1,
            target_offset: 88,
        },
        // IP6T_F_GOTO 0x04
        Family::Ipv6 => Layout {
            goto_bit: 131 * 8 + 2,
            target_offset: 140,
        },
    }
}

/// Finds the place in the code of the function that walks the rules of `family`. `trace_bit` is where
/// `sk_buff.nf_trace` is, in bits.
///
/// # Errors
/// The code is not of a shape in which the place is certain.
pub(super) fn find(code: &[u8], trace_bit: u32, family: Family) -> Result<Place, NotFound> {
    let layout = layout(family);
    let instructions: Vec<Instruction> = Decoder::with_ip(64, code, 0, DecoderOptions::NONE)
        .into_iter()
        .collect();
    let asking = |bit| {
        instructions
            .iter()
            .enumerate()
            .filter_map(move |(index, instruction)| Some((index, asks(instruction, bit)?)))
    };

    let questions: Vec<_> = asking(trace_bit).collect();
    let (at, skb) = match questions[..] {
        [] => return Err(NotFound::NoQuestion),
        [question] => question,
        _ => return Err(NotFound::Questions(questions.len())),
    };
    let entry = entry_before(&instructions[..at], layout.target_offset).ok_or(NotFound::NoEntry)?;
    let mut gotos = asking(layout.goto_bit).map(|(_, register)| register).peekable();
    if gotos.peek().is_none() || gotos.any(|register| register != entry) {
        return Err(NotFound::NoEntry);
    }
    let (Some(skb), Some(entry)) = (saved(skb), saved(entry)) else {
        return Err(NotFound::Register);
    };
    if skb == entry {
        return Err(NotFound::Register);
    }
    Ok(Place {
        offset: instructions[at].ip(),
        skb,
        entry,
    })
}

/// The register with the address of a structure whose bit `bit` this instruction asks for, and no other bit.
fn asks(instruction: &Instruction, bit: u32) -> Option<Register> {
    if instruction.mnemonic() != Mnemonic::Test {
        return None;
    }
    let mask = instruction.try_immediate(1).ok()?;
    let (register, offset) = memory(instruction)?;
    let asked = offset.checked_mul(8)?.checked_add(mask.trailing_zeros())?;
    (mask.is_power_of_two() && asked == bit).then_some(register)
}

/// Base and displacement of the first operand, where it is memory of that plain form.
fn memory(instruction: &Instruction) -> Option<(Register, u32)> {
    let plain = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    let offset = u32::try_from(instruction.memory_displacement64()).ok()?;
    plain.then_some((instruction.memory_base(), offset))
}

/// The register that `target_offset` was read through just before, if it still holds the same.
fn entry_before(before: &[Instruction], target_offset: u32) -> Option<Register> {
    let mut between = Vec::new();
    for instruction in before.iter().rev().take(BETWEEN_MAX) {
        let reads = instruction.mnemonic() == Mnemonic::Movzx && instruction.op1_kind() == OpKind::Memory;
        if let Some((register, offset)) = memory(instruction)
            && reads
            && offset == target_offset
        {
            between.push(instruction);
            let kept = between
                .iter()
                .all(|instruction| !may_write(instruction, register));
            return kept.then_some(register);
        }
        // What comes from elsewhere has not read it here; a branch away may be taken, for then it does not matter.
        let straight = matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch
        );
        if !straight {
            return None;
        }
        between.push(instruction);
    }
    None
}

/// Whether an instruction may change a register.
fn may_write(instruction: &Instruction, register: Register) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let mut used = factory.info(instruction).used_registers().iter();
    used.any(|used| {
        used.register().full_register() == register
            && !matches!(
                used.access(),
                OpAccess::None | OpAccess::Read | OpAccess::CondRead
            )
    })
}

/// Where `struct pt_regs` (`arch/x86/include/asm/ptrace.h`) has a register. Only those that a function has to
/// preserve can hold something throughout, for the loop calls others.
fn saved(register: Register) -> Option<u32> {
    Some(match register {
        Register::R15 => 0,
        Register::R14 => 8,
        Register::R13 => 16,
        Register::R12 => 24,
        Register::RBP => 32,
        Register::RBX => 40,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
