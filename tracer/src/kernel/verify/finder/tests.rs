use super::*;

/// `skb->nf_trace` as in the code below: byte 0x83, bit 3.
const TRACE_BIT: u32 = 0x83 * 8 + 3;

/// Offsets in `struct pt_regs`.
const RBX: u32 = 40;
const R13: u32 = 16;
const R14: u32 = 8;

const QUESTION: &[u8] = &[0x41, 0xf6, 0x86, 0x83, 0, 0, 0, 0x08]; // testb $0x8,0x83(%r14)
const GOTO: &[u8] = &[0xf6, 0x43, 0x52, 0x02]; // testb $0x2,0x52(%rbx)
const TARGET_OFFSET: &[u8] = &[0x44, 0x0f, 0xb7, 0x53, 0x58]; // movzwl 0x58(%rbx),%r10d

/// A loop over rules of the shape that compilers give it, in pieces.
const LOOP: [&[u8]; 14] = [
    &[0x53],                   // push %rbx
    &[0x49, 0x89, 0xf6],       // mov %rsi,%r14
    &[0x0f, 0xb7, 0x43, 0x58], // movzwl 0x58(%rbx),%eax
    &[0xff, 0xd0],             // call *%rax
    &[0x84, 0xc0],             // test %al,%al
    &[0x74, 0x21],             // je
    TARGET_OFFSET,
    &[0x49, 0x01, 0xda],       // add %rbx,%r10
    &[0x49, 0x8b, 0x42, 0x08], // mov 0x8(%r10),%rax
    QUESTION,
    &[0x75, 0x11], // jne
    GOTO,
    &[0x5b], // pop %rbx
    &[0xc3], // ret
];

/// The code with each piece that is `from` replaced.
fn with(from: &[u8], to: &[u8]) -> Vec<u8> {
    let pieces = LOOP.map(|piece| if piece == from { to } else { piece });
    pieces.concat()
}

fn find4(code: &[u8]) -> Result<Place, NotFound> {
    find(code, TRACE_BIT, Family::Ipv4)
}

#[test]
fn the_question_and_its_registers_are_found() {
    let place = find4(&LOOP.concat()).unwrap();
    let before: usize = LOOP[..9].iter().map(|piece| piece.len()).sum();
    assert_eq!(
        place,
        Place {
            offset: before as u64,
            skb: R14,
            entry: RBX
        }
    );
}

#[test]
fn rules_of_ipv6_are_laid_out_differently() {
    let code = LOOP
        .map(|piece| match piece {
            GOTO => &[0x41, 0xf6, 0x85, 0x83, 0, 0, 0, 0x04], // testb $0x4,0x83(%r13)
            TARGET_OFFSET => &[0x45, 0x0f, 0xb7, 0x95, 0x8c, 0, 0, 0], // movzwl 0x8c(%r13),%r10d
            piece => piece,
        })
        .concat();
    let place = find(&code, TRACE_BIT, Family::Ipv6).unwrap();
    assert_eq!((place.skb, place.entry), (R14, R13));
    assert_eq!(find4(&code), Err(NotFound::NoEntry));
}

#[test]
fn a_kernel_without_the_question_has_no_place() {
    assert_eq!(find4(&with(QUESTION, &[])), Err(NotFound::NoQuestion));
    // Another bit of the same byte, and more bits at once.
    for mask in [0x04, 0x18] {
        let other = [0x41, 0xf6, 0x86, 0x83, 0, 0, 0, mask];
        assert_eq!(find4(&with(QUESTION, &other)), Err(NotFound::NoQuestion));
    }
    // A breakpoint of somebody else, where the question was.
    assert_eq!(
        find4(&with(QUESTION, &[0xcc, 0xf6, 0x86, 0x83, 0, 0, 0, 0x10])),
        Err(NotFound::NoQuestion)
    );
    assert_eq!(find4(&[]), Err(NotFound::NoQuestion));
}

#[test]
fn the_question_may_be_asked_of_a_wider_word() {
    let wide = [0x41, 0xf7, 0x86, 0x80, 0, 0, 0, 0, 0, 0, 0x08]; // testl $0x8000000,0x80(%r14)
    assert_eq!(find4(&with(QUESTION, &wide)).unwrap().skb, R14);
}

#[test]
fn two_questions_are_one_too_many() {
    let twice = [QUESTION, QUESTION].concat();
    assert_eq!(find4(&with(QUESTION, &twice)), Err(NotFound::Questions(2)));
}

#[test]
fn the_rule_has_to_be_known_by_both_signs() {
    assert_eq!(find4(&with(GOTO, &[])), Err(NotFound::NoEntry));
    assert_eq!(find4(&with(TARGET_OFFSET, &[])), Err(NotFound::NoEntry));
    let of_rbp = [0xf6, 0x45, 0x52, 0x02]; // testb $0x2,0x52(%rbp)
    assert_eq!(find4(&with(GOTO, &of_rbp)), Err(NotFound::NoEntry));
}

#[test]
fn a_register_that_has_changed_meanwhile_does_not_hold_the_rule() {
    let changed = [TARGET_OFFSET, &[0x4c, 0x89, 0xd3]].concat(); // mov %r10,%rbx
    assert_eq!(find4(&with(TARGET_OFFSET, &changed)), Err(NotFound::NoEntry));
    let called = [TARGET_OFFSET, &[0xff, 0xd0]].concat(); // call *%rax
    assert_eq!(find4(&with(TARGET_OFFSET, &called)), Err(NotFound::NoEntry));
}

#[test]
fn a_register_that_calls_may_change_is_refused() {
    let of_rax = [0xf6, 0x80, 0x83, 0, 0, 0, 0x08]; // testb $0x8,0x83(%rax)
    assert_eq!(find4(&with(QUESTION, &of_rax)), Err(NotFound::Register));
    let of_rbx = [0xf6, 0x83, 0x83, 0, 0, 0, 0x08]; // testb $0x8,0x83(%rbx)
    assert_eq!(find4(&with(QUESTION, &of_rbx)), Err(NotFound::Register));
}

#[test]
fn arbitrary_code_never_panics() {
    bolero::check!().for_each(|code: &[u8]| {
        for family in [Family::Ipv4, Family::Ipv6] {
            if let Ok(place) = find(code, TRACE_BIT, family) {
                assert!(place.offset < code.len() as u64);
            }
        }
    });
}
