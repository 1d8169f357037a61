//! The test double itself: instructions as bytes, each result worked out by hand or in f64, and each fault.

use super::super::double::{self, Tiles};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// `ldtilecfg [rax]`, `tileloadd tmm0 … tmm2, [rcx+rdx]`, `tilezero tmm0`, `tilestored [rcx+rdx], tmm0`, products, `tilerelease`.
const CONFIGURE: &[u8] = &[0xc4, 0xe2, 0x78, 0x49, 0x00];
const LOAD: [&[u8]; 3] = [
    &[0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x11],
    &[0xc4, 0xe2, 0x7b, 0x4b, 0x0c, 0x11],
    &[0xc4, 0xe2, 0x7b, 0x4b, 0x14, 0x11],
];
const ZERO: &[u8] = &[0xc4, 0xe2, 0x7b, 0x49, 0xc0];
const STORE: &[u8] = &[0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x11];
/// `tdpbf16ps tmm0, tmm1, tmm2`.
const PRODUCT: &[u8] = &[0xc4, 0xe2, 0x6a, 0x5c, 0xc1];
const RELEASE: &[u8] = &[0xc4, 0xe2, 0x78, 0x49, 0xc0];

fn configuration(bytes: [u16; 3], rows: [u8; 3]) -> [u8; 64] {
    let mut all = [0; 64];
    all[0] = 1;
    for tile in 0..3 {
        all[16 + 2 * tile..][..2].copy_from_slice(&bytes[tile].to_le_bytes());
        all[48 + tile] = rows[tile];
    }
    all
}

/// Registers by number: rax 0, rcx 1, rdx 2, and so on; those not given are poisoned.
fn run(tiles: &mut Tiles, code: &[u8], registers: &[(u8, u64)]) -> Result<usize, &'static str> {
    let value =
        |number: u8| registers.iter().find(|(at, _)| *at == number).map_or(0x5555_5555_5555_5555, |&(_, value)| value);
    // SAFETY: the tests give instructions whose memory is there.
    unsafe { tiles.execute(code.as_ptr(), value) }
}

fn address<T>(values: &[T]) -> u64 {
    values.as_ptr() as u64
}

/// A double with tiles of the given sizes.
fn configured(bytes: [u16; 3], rows: [u8; 3]) -> Tiles {
    let mut tiles = Tiles::new();
    let with = configuration(bytes, rows);
    assert_eq!(run(&mut tiles, CONFIGURE, &[(0, address(&with))]), Ok(CONFIGURE.len()));
    tiles
}

fn load<T>(tiles: &mut Tiles, tile: usize, values: &[T], stride: usize) {
    let registers = [(1, address(values)), (2, stride as u64)];
    assert_eq!(run(tiles, LOAD[tile], &registers), Ok(6));
}

#[test]
fn rows_go_into_tiles_and_out_again_at_any_stride() {
    let mut tiles = configured([8, 4, 4], [3, 1, 1]);
    let values: Vec<u32> = (0..20).collect();
    load(&mut tiles, 0, &values, 20);
    let mut out = [u32::MAX; 12];
    assert_eq!(run(&mut tiles, STORE, &[(1, out.as_mut_ptr() as u64), (2, 16)]), Ok(6));
    let gap = u32::MAX;
    assert_eq!(out, [0, 1, gap, gap, 5, 6, gap, gap, 10, 11, gap, gap]);
    assert_eq!(run(&mut tiles, ZERO, &[]), Ok(5));
    assert_eq!(run(&mut tiles, STORE, &[(1, out.as_mut_ptr() as u64), (2, 8)]), Ok(6));
    assert_eq!(out, [0, 0, 0, 0, 0, 0, gap, gap, 10, 11, gap, gap]);
}

#[test]
fn every_way_of_giving_an_address_is_read() {
    let values: Vec<u32> = (0..64).collect();
    let at = address(&values);
    let far = at.wrapping_sub(0x1_2345);
    // The bytes of tileloadd tmm0, the registers, and the value that is first and the one that begins the second row.
    type Load<'a> = (&'a [u8], &'a [(u8, u64)], [u32; 2]);
    let loads: [Load<'_>; 8] = [
        // [rax+rbx*1], [r9+r10*4], [rsp+rbp*2], [r13+r12*8+0]
        (&[0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x18], &[(0, at), (3, 4)], [0, 1]),
        (&[0xc4, 0x82, 0x7b, 0x4b, 0x04, 0x91], &[(9, at), (10, 4)], [0, 4]),
        (&[0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x6c], &[(4, at), (5, 4)], [0, 2]),
        (&[0xc4, 0x82, 0x7b, 0x4b, 0x44, 0xe5, 0x00], &[(13, at), (12, 4)], [0, 8]),
        // [rcx+rdx*1+8], [rcx+rdx*1-4], [rsi+rdi*2+0x12345], [rbx*4+…], whose displacement is no base.
        (&[0xc4, 0xe2, 0x7b, 0x4b, 0x44, 0x11, 0x08], &[(1, at), (2, 12)], [2, 5]),
        (&[0xc4, 0xe2, 0x7b, 0x4b, 0x44, 0x11, 0xfc], &[(1, at + 4), (2, 8)], [0, 2]),
        (&[0xc4, 0xe2, 0x7b, 0x4b, 0x84, 0x7e, 0x45, 0x23, 0x01, 0x00], &[(6, far), (7, 8)], [0, 4]),
        (&[0xc4, 0xa2, 0x7b, 0x4b, 0x84, 0x91, 0x40, 0x00, 0x00, 0x00], &[(1, at), (10, 8)], [16, 24]),
    ];
    for (code, registers, expected) in loads {
        let mut tiles = configured([4, 4, 4], [2, 1, 1]);
        assert_eq!(run(&mut tiles, code, registers), Ok(code.len()), "{code:x?}");
        let mut out = [0; 2];
        assert_eq!(run(&mut tiles, STORE, &[(1, out.as_mut_ptr() as u64), (2, 4)]), Ok(6));
        assert_eq!(out, expected, "{code:x?}");
    }
    // A configuration beside the instruction: ldtilecfg [rip+3], three bytes further on.
    let mut code = vec![0xc4, 0xe2, 0x78, 0x49, 0x05, 3, 0, 0, 0, 0xcc, 0xcc, 0xcc];
    code.extend(configuration([64; 3], [16; 3]));
    assert_eq!(run(&mut Tiles::new(), &code, &[]), Ok(9));
}

/// The sum of one element of a product of tiles of one row, one column and some pairs.
fn product(before: f32, left: &[f32], right: &[f32]) -> f32 {
    let deep = left.len() as u16;
    let mut tiles = configured([4, 2 * deep, 4], [1, 1, deep as u8 / 2]);
    let halves = |values: &[f32]| values.iter().map(|value| (value.to_bits() >> 16) as u16).collect::<Vec<u16>>();
    load(&mut tiles, 0, &[before], 64);
    load(&mut tiles, 1, &halves(left), 64);
    load(&mut tiles, 2, &halves(right), 4);
    assert_eq!(run(&mut tiles, PRODUCT, &[]), Ok(5));
    let mut out = [0.0];
    assert_eq!(run(&mut tiles, STORE, &[(1, out.as_mut_ptr() as u64), (2, 64)]), Ok(6));
    out[0]
}

#[test]
fn a_product_of_whole_numbers_is_exact() {
    let mut tiles = configured([64, 64, 64], [16, 16, 16]);
    let value = |at: usize, by: usize| ((at * by) % 23) as i32 - 11;
    let halves =
        |by: usize| -> Vec<u16> { (0..512).map(|at| ((value(at, by) as f32).to_bits() >> 16) as u16).collect() };
    let before: Vec<f32> = (0..256).map(|at| value(at, 3) as f32).collect();
    load(&mut tiles, 0, &before, 64);
    load(&mut tiles, 1, &halves(5), 64);
    load(&mut tiles, 2, &halves(7), 64);
    assert_eq!(run(&mut tiles, PRODUCT, &[]), Ok(5));
    let mut out = [0.0f32; 256];
    assert_eq!(run(&mut tiles, STORE, &[(1, out.as_mut_ptr() as u64), (2, 64)]), Ok(6));
    for (row, column) in (0..16).flat_map(|row| (0..16).map(move |column| (row, column))) {
        let pairs = (0..32).map(|deep| value(row * 32 + deep, 5) * value(deep / 2 * 32 + 2 * column + deep % 2, 7));
        let expected = value(row * 16 + column, 3) + pairs.sum::<i32>();
        assert_eq!(out[row * 16 + column], expected as f32);
    }
}

#[test]
fn first_and_second_values_are_summed_apart_and_added_last() {
    let big = (1u32 << 24) as f32;
    // In one sum, 2²⁴ would swallow each 1; apart, the ones are summed among themselves: 2²⁴ + (1 + 1).
    assert_eq!(product(0.0, &[big, 1.0, 0.0, 1.0], &[1.0; 4]), big + 2.0);
    // Of the same kind, they are swallowed one after the other, as the even neighbour is nearest.
    assert_eq!(product(0.0, &[big, 0.0, 1.0, 0.0, 1.0, 0.0], &[1.0; 6]), big);
    // What was there is added to the sum, not summed into: 2²⁴ + 1 + 1 would stay 2²⁴ otherwise.
    assert_eq!(product(big, &[1.0, 0.0, 1.0, 0.0], &[1.0; 4]), big + 2.0);
    // Products are not rounded before they are added: (1 + 2⁻⁷)² - 1 - 2⁻⁶ is 2⁻¹⁴.
    let near = 1.0 + 1.0 / 128.0;
    assert_eq!(product(0.0, &[-1.0, 0.0, near, 0.0], &[1.0 + 1.0 / 64.0, 0.0, near, 0.0]), 1.0 / 16384.0);
}

#[test]
fn denormal_values_are_zero_and_what_is_no_number_stays_so() {
    let (least, tiny) = (f32::MIN_POSITIVE, f32::from_bits(0x0040_0000));
    assert_eq!(product(0.0, &[tiny, 0.0], &[1.0, 0.0]), 0.0, "of the left");
    assert_eq!(product(0.0, &[1.0, 0.0], &[tiny, 0.0]), 0.0, "of the right");
    assert_eq!(product(tiny, &[0.0, 0.0], &[0.0, 0.0]), 0.0, "of the sums");
    assert_eq!(product(0.0, &[least, 0.0], &[0.5, 0.0]), 0.0, "of the result");
    assert_eq!(product(0.0, &[least, 0.0], &[1.0, 0.0]), least);
    assert_eq!(product(1.0, &[f32::INFINITY, 0.0], &[2.0, 0.0]), f32::INFINITY);
    assert!(product(1.0, &[f32::INFINITY, 0.0], &[0.0, 0.0]).is_nan());
    assert!(product(1.0, &[f32::INFINITY, f32::NEG_INFINITY], &[1.0, 1.0]).is_nan());
    assert!(product(1.0, &[f32::NAN, 0.0], &[0.0, 0.0]).is_nan());
}

#[test]
fn what_a_processor_refuses_and_what_is_never_meant_is_a_fault() {
    let fault = |tiles: &mut Tiles, code: &[u8], of: &str| {
        let values = [0u8; 2048];
        let registers = [(0, address(&values)), (1, address(&values)), (2, 64)];
        let fault = run(tiles, code, &registers).expect_err(of);
        assert!(fault.contains(of), "{fault} is not {of}");
    };
    for code in [LOAD[0], STORE, ZERO, PRODUCT] {
        fault(&mut Tiles::new(), code, "not configured");
    }
    let mut tiles = configured([64, 64, 64], [16, 16, 16]);
    assert_eq!(run(&mut tiles, RELEASE, &[]), Ok(5));
    fault(&mut tiles, ZERO, "not configured");
    let all = || configured([64, 64, 64], [16, 16, 16]);
    fault(&mut configured([64, 0, 0], [16, 0, 0]), LOAD[1], "leaves out");
    fault(&mut all(), &[0xc4, 0xe2, 0x7b, 0x4b, 0x1c, 0x11], "leaves out");
    fault(&mut all(), &[0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x21], "without a stride");
    fault(&mut all(), &[0xc4, 0xe2, 0x7b, 0x4b, 0x01], "without a register");
    fault(&mut all(), &[0xc4, 0x62, 0x7b, 0x4b, 0x04, 0x11], "beyond the eighth");
    fault(&mut all(), &[0xc4, 0xe2, 0x72, 0x5c, 0xc1], "twice");
    fault(&mut all(), &[0xc4, 0xe2, 0x7a, 0x5c, 0xc1], "twice");
    fault(&mut all(), &[0xc4, 0xe2, 0x6a, 0x5c, 0xc0], "twice");
    fault(&mut configured([64, 64, 32], [16, 16, 16]), PRODUCT, "do not fit");
    fault(&mut configured([64, 64, 64], [16, 8, 16]), PRODUCT, "do not fit");
    fault(&mut configured([64, 64, 64], [16, 16, 8]), PRODUCT, "do not fit");
    fault(&mut configured([64, 62, 64], [16, 16, 15]), PRODUCT, "whole number of pairs");
    // Instructions that we do not use: with W, with the long form, tileloaddt1, tdpbssd, vzeroupper, ud2.
    for code in [
        &[0xc4, 0xe2, 0xfb, 0x4b, 0x04, 0x11][..],
        &[0xc4, 0xe2, 0x7f, 0x4b, 0x04, 0x11],
        &[0xc4, 0xe2, 0x79, 0x4b, 0x04, 0x11],
        &[0xc4, 0xe2, 0x6b, 0x5e, 0xc1],
    ] {
        fault(&mut all(), code, "does not know");
    }
    fault(&mut all(), &[0xc5, 0xf8, 0x77], "no instruction of matrix units");
    fault(&mut all(), &[0x0f, 0x0b], "no instruction of matrix units");
    fault(&mut all(), &[0xc4, 0xe3, 0x7b, 0x4b, 0x04, 0x11], "no instruction of matrix units");
    fault(&mut all(), &[0xc4, 0xe2, 0x73, 0x49, 0xc0], "third operand");
    let configurations: [(usize, u8, &str); 7] = [
        (0, 2, "palette"),
        (1, 1, "first row"),
        (5, 1, "reserved"),
        (33, 1, "reserved"),
        (60, 1, "reserved"),
        (48, 17, "more than 16 rows"),
        (16, 65, "64 bytes a row"),
    ];
    for (at, byte, of) in configurations {
        let mut with = configuration([64; 3], [16; 3]);
        with[at] = byte;
        let fault = run(&mut Tiles::new(), CONFIGURE, &[(0, address(&with))]).expect_err(of);
        assert!(fault.contains(of), "{fault} is not {of}");
    }
    let with = configuration([64, 0, 64], [16; 3]);
    assert!(run(&mut Tiles::new(), CONFIGURE, &[(0, address(&with))]).is_err());
    // The first palette of all means none.
    assert_eq!(run(&mut tiles, CONFIGURE, &[(0, address(&[0u8; 64]))]), Ok(5));
    fault(&mut tiles, ZERO, "not configured");
}

#[test]
fn other_illegal_instructions_end_the_process_with_a_message() {
    const CHILD: &str = "TEST_DOUBLE_OF_MATRIX_UNITS";
    if std::env::var_os(CHILD).is_some() {
        double::install();
        // SAFETY: it ends the process.
        unsafe { std::arch::asm!("ud2") }
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::other_illegal_instructions_end_the_process_with_a_message");
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", "--nocapture", &name]).env(CHILD, "").output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGILL));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("test double") && message.contains("no instruction of matrix units"), "{message}");
}
