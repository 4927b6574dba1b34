use super::*;

const START: u64 = 0xffff_ffff_c000_0000;
const THUNK: u64 = START + 0x1000;
const FAIL: u64 = START + 0x2000;

const PUSH: &[u8] = &[0x53];
const POP: &[u8] = &[0x5b];
const RET: &[u8] = &[0xc3];
const INT3: &[u8] = &[0xcc];
const UD2: &[u8] = &[0x0f, 0x0b];
const NOPL: &[u8] = &[0x0f, 0x1f, 0x40, 0x00];
/// je over two bytes
const JE_2: &[u8] = &[0x74, 0x02];

/// `jmp` or `call` to an address, from the place at which the code before ends.
fn to(opcode: u8, before: &[&[u8]], target: u64) -> Vec<u8> {
    let at = START + before.concat().len() as u64 + 5;
    let distance = i32::try_from(target.wrapping_sub(at).cast_signed()).unwrap();
    [&[opcode][..], &distance.to_le_bytes()].concat()
}

fn find_in(pieces: &[&[u8]]) -> Result<Vec<u64>, NotFound> {
    let code = pieces.concat();
    let part = Part {
        address: START,
        code: &code,
    };
    let known = Known {
        thunks: vec![THUNK],
        endless: vec![FAIL],
    };
    let found = find(&[part], &known)?;
    Ok(found.into_iter().map(|address| address - START).collect())
}

#[test]
fn every_return_is_found() {
    assert_eq!(find_in(&[PUSH, JE_2, POP, RET, POP, RET]), Ok(vec![4, 6]));
    // Between functions there are breakpoints, or instructions that do nothing.
    assert_eq!(find_in(&[RET, INT3, INT3, INT3]), Ok(vec![0]));
    assert_eq!(find_in(&[RET, NOPL, NOPL]), Ok(vec![0]));
    // Nothing leads there, but a static branch may later.
    assert_eq!(find_in(&[NOPL, RET, POP, RET]), Ok(vec![4, 6]));
}

#[test]
fn a_jump_to_the_thunk_returns() {
    let before = [PUSH, POP];
    let jump = to(0xe9, &before, THUNK);
    assert_eq!(find_in(&[PUSH, POP, &jump, INT3]), Ok(vec![2]));
}

#[test]
fn a_function_that_goes_on_elsewhere_is_not_understood() {
    let jump = to(0xe9, &[], START + 0x3000);
    assert_eq!(find_in(&[&jump, RET]), Err(NotFound::Elsewhere));
    // A conditional jump to the thunk returns only sometimes.
    let jump = [&[0x0f_u8, 0x84][..], &to(0xe9, &[&[0]], THUNK)[1..]].concat();
    assert_eq!(find_in(&[&jump, RET]), Err(NotFound::Elsewhere));
    // jmp *%rax
    assert_eq!(find_in(&[&[0xff, 0xe0], RET]), Err(NotFound::Computed));
}

#[test]
fn a_breakpoint_in_place_of_an_instruction_hides_it() {
    assert_eq!(find_in(&[RET, POP, INT3]), Err(NotFound::Patched));
    // The jump leads to the breakpoint.
    assert_eq!(find_in(&[&[0x74, 0x01], RET, INT3]), Err(NotFound::Shape));
    assert_eq!(find_in(&[RET, UD2, INT3]), Err(NotFound::Patched));
}

#[test]
fn the_end_is_where_nothing_comes_after() {
    let fail = to(0xe8, &[RET], FAIL);
    assert_eq!(find_in(&[RET, &fail, NOPL]), Ok(vec![0]));
    assert_eq!(find_in(&[RET, &fail, INT3]), Ok(vec![0]));
    let other = to(0xe8, &[RET], START + 0x3000);
    assert_eq!(find_in(&[RET, &other, NOPL]), Err(NotFound::Shape));
    assert_eq!(find_in(&[RET, UD2]), Ok(vec![0]));
    // The last function of a section.
    assert_eq!(find_in(&[RET, &[0; 40]]), Ok(vec![0]));
    assert_eq!(find_in(&[POP, &[0; 40]]), Err(NotFound::Shape));
    assert_eq!(find_in(&[UD2]), Err(NotFound::Shape));
}

#[test]
fn cold_parts_belong_to_the_function() {
    let cold = START + 0x800;
    let jump = to(0xe9, &[RET], cold);
    let hot = [RET, &jump].concat();
    let parts = [
        Part {
            address: START,
            code: &hot,
        },
        Part {
            address: cold,
            code: &[0x5b, 0xc3],
        },
    ];
    let known = Known {
        thunks: Vec::new(),
        endless: Vec::new(),
    };
    assert_eq!(find(&parts, &known), Ok(vec![START, cold + 1]));
    assert_eq!(find(&parts[..1], &known), Err(NotFound::Elsewhere));
}

#[test]
fn arbitrary_code_never_panics() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = find_in(&[bytes]);
    });
}
