//! The launches on stored samples against the same on the CPU.

use super::{Element, Emulator, Gpu, Memory, Pointer, noise, run};
use crate::cuda::samples::{self, Samples, Shown};
use crate::ops::{Crops, Form, Values, cut, put};
use candle_core::{DType, Device, Tensor};

const VALUES: [Values; 4] = [Values::U8 { scale: 0.037 }, Values::F16, Values::Bf16, Values::F32];
/// Rows and channels, with and without vectors in a sample.
const SIZES: [(usize, usize); 4] = [(1, 1), (3, 5), (4, 8), (5, 24)];
/// Slots that there are, and those of a batch.
const SLOTS: usize = 7;
const CHOSEN: [u32; 4] = [6, 0, 3, 2];

fn forms() -> impl Iterator<Item = Form> {
    let sizes = VALUES.into_iter().flat_map(|values| SIZES.map(|(size, channels)| (values, size, channels)));
    sizes.flat_map(|(values, size, channels)| [false, true].map(|planes| Form { values, planes, size, channels }))
}

/// Bytes that look random.
fn bytes(count: usize, seed: u32) -> Vec<u8> {
    (0..count as u32).map(|at| (at.wrapping_add(seed * 7919).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Slots of stored values, every one of which is a number.
fn stored(form: &Form) -> Tensor {
    let x = match form.values {
        Values::U8 { .. } => noise(&[SLOTS, form.size, form.size, form.channels], 1, Element::F32).abs().unwrap(),
        _ => noise(&[SLOTS, form.size, form.size, form.channels], 1, Element::F32),
    };
    let stored = Tensor::zeros((SLOTS, form.bytes()), DType::U8, &Device::Cpu).unwrap();
    let all = Tensor::arange(0, SLOTS as u32, &Device::Cpu).unwrap();
    form.encode(&x, (&stored, &all), &no_fault()).unwrap();
    stored
}

fn chosen() -> Tensor {
    Tensor::new(&CHOSEN, &Device::Cpu).unwrap()
}

fn no_fault() -> Tensor {
    Tensor::zeros(1, DType::U8, &Device::Cpu).unwrap()
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn put_numbers(gpu: &Emulator, numbers: impl IntoIterator<Item = i64>) -> Memory {
    gpu.put_bytes(&numbers.into_iter().flat_map(|number| (number as u32).to_ne_bytes()).collect::<Vec<u8>>())
}

/// Calls a function with a batch of the slots.
fn with_batch<T>(gpu: &Emulator, stored: &Memory, f: impl FnOnce(Samples) -> T) -> T {
    let chosen = put_numbers(gpu, CHOSEN.map(i64::from));
    f(Samples { stored: gpu.pointer(stored), slots: SLOTS, chosen: gpu.pointer(&chosen), batch: CHOSEN.len() })
}

/// Maps of a type, in single precision.
fn rounded(x: &Tensor, element: Element) -> Tensor {
    let dtype = if element == Element::Bf16 { DType::BF16 } else { DType::F32 };
    x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
}

#[track_caller]
fn assert_equal(found: &Tensor, expected: &Tensor, what: &str) {
    let bits = |tensor: &Tensor| -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    assert_eq!(bits(found), bits(expected), "{what}");
}

#[test]
fn stored_samples_are_decoded_to_the_same_bits() {
    for (form, element) in forms().flat_map(|form| super::ELEMENTS.map(|element| (form, element))) {
        let stored = stored(&form);
        let expected = form.decode(&stored, &chosen(), DType::F32).unwrap();
        let [found] = run([(expected.dims(), element)], |gpu, [to]| {
            let memory = gpu.put_bytes(&bytes_of(&stored));
            // SAFETY: memory of the sizes that are said.
            with_batch(gpu, &memory, |batch| unsafe { form.for_gpu().decode(gpu, batch, (to, element)) })
        });
        assert_equal(&found, &rounded(&expected, element), &format!("{form:?} in {element:?}"));
    }
}

/// What encoding leaves in the slots, and whether it found a fault, on the emulated GPU and here.
fn encode(form: &Form, x: &Tensor, element: Element) -> [(Vec<u8>, u8); 2] {
    let gpu = Emulator::new();
    let there = gpu.put_bytes(&bytes_of(&stored(form)));
    let (maps, fault) = (gpu.put(x, element), gpu.put_bytes(&[0]));
    with_batch(&gpu, &there, |batch| {
        let x = (gpu.pointer(&maps), element);
        // SAFETY: memory of the sizes that are said.
        unsafe { form.for_gpu().encode(&gpu, x, batch, gpu.pointer(&fault)) }.unwrap();
    });
    let (here, found) = (stored(form), no_fault());
    form.encode(x, (&here, &chosen()), &found).unwrap();
    [(gpu.bytes(&there), gpu.bytes(&fault)[0]), (bytes_of(&here), bytes_of(&found)[0])]
}

#[test]
fn maps_are_encoded_to_the_same_bytes() {
    for (form, element) in forms().flat_map(|form| super::ELEMENTS.map(|element| (form, element))) {
        let x = noise(&[CHOSEN.len(), form.size, form.size, form.channels], 2, element);
        // Values of u8 are not negative, and some are more than it holds.
        let x = if matches!(form.values, Values::U8 { .. }) { (x.abs().unwrap() * 5.0).unwrap() } else { x };
        let x = rounded(&x, element);
        let [found, expected] = encode(&form, &x, element);
        assert_eq!(found, expected, "{form:?} from {element:?}");
        assert_eq!(found.1, 0, "{form:?} from {element:?}");
    }
}

#[test]
fn values_that_do_not_fit_are_noted() {
    for form in forms() {
        let fits_not = match form.values {
            Values::U8 { .. } => [f32::NAN, f32::INFINITY, -0.5],
            Values::F16 => [f32::NAN, f32::NEG_INFINITY, 65_520.0],
            Values::Bf16 => [f32::NAN, f32::INFINITY, f32::MAX],
            Values::F32 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY],
        };
        for value in fits_not {
            let mut values = vec![1.0; CHOSEN.len() * form.len()];
            values[2 * form.len()] = value;
            let x = Tensor::from_vec(values, (CHOSEN.len(), form.size, form.size, form.channels), &Device::Cpu);
            let [found, expected] = encode(&form, &x.unwrap(), Element::F32);
            assert_eq!((found.1, expected.1), (1, 1), "{value} in {form:?}");
        }
    }
}

#[test]
fn rows_are_copied_into_their_slots() {
    for length in [1, 15, 16, 48] {
        let (rows, all) = (bytes(CHOSEN.len() * length, 1), bytes(SLOTS * length, 2));
        let gpu = Emulator::new();
        let (there, source) = (gpu.put_bytes(&all), gpu.put_bytes(&rows));
        // SAFETY: memory of the sizes that are said.
        with_batch(&gpu, &there, |batch| unsafe { batch.put(&gpu, gpu.pointer(&source), length) }).unwrap();
        let here = Tensor::from_vec(all, (SLOTS, length), &Device::Cpu).unwrap();
        put(&Tensor::from_vec(rows, (CHOSEN.len(), length), &Device::Cpu).unwrap(), (&here, &chosen())).unwrap();
        assert_eq!(gpu.bytes(&there), bytes_of(&here), "{length} bytes");
    }
}

#[test]
fn crops_of_images_agree() {
    for (channels, side, size) in [(1, 1, 1), (3, 8, 8), (3, 9, 5), (4, 6, 11)] {
        let images = bytes(SLOTS * channels * side * side, 1);
        let (edge, centre) = (side as i64 - 1, (side as i64 - size as i64) / 2);
        let offsets = [[0, 0, 0], [centre, centre, 1], [-4, edge, 0], [edge, -2, 1]];
        let table = noise(&[channels, 256], 3, Element::F32);
        let own = Tensor::new(&offsets.map(|place| place.map(|number| number as i32)), &Device::Cpu).unwrap();
        let here = Tensor::from_vec(images.clone(), (SLOTS, channels * side * side), &Device::Cpu).unwrap();
        let expected = Crops { offsets: &own, size, table: &table }.show(&here, &chosen(), DType::F32).unwrap();
        for element in super::ELEMENTS {
            let [found] = run([(expected.dims(), element)], |gpu, [to]| {
                let (there, offsets) = (gpu.put_bytes(&images), put_numbers(gpu, offsets.into_iter().flatten()));
                let table = gpu.put(&table, Element::F32);
                let [offsets, table] = [&offsets, &table].map(|memory| gpu.pointer(memory));
                let shown = Shown { offsets, table, size, side, channels };
                // SAFETY: memory of the sizes that are said.
                with_batch(gpu, &there, |batch| unsafe { batch.show(gpu, shown, (to, element)) })
            });
            assert_equal(&found, &rounded(&expected, element), &format!("{size} of {side} x {side} in {element:?}"));
        }
    }
}

#[test]
fn squares_of_maps_agree() {
    for (channels, element) in [1, 5, 8, 24].into_iter().flat_map(|c| super::ELEMENTS.map(|element| (c, element))) {
        let shape = [3, 5, 7, channels];
        let offsets = [[0u32, 0], [1, 3], [2, 4]];
        let x = noise(&shape, 1, element);
        let expected = cut(&x, &Tensor::new(&offsets, &Device::Cpu).unwrap(), 3).unwrap();
        let [found] = run([(expected.dims(), element)], |gpu, [to]| {
            let (x, offsets) = (gpu.put(&x, element), put_numbers(gpu, offsets.into_iter().flatten().map(i64::from)));
            let pointers: [Pointer; 3] = [gpu.pointer(&x), gpu.pointer(&offsets), to];
            // SAFETY: memory of the sizes that are said.
            unsafe { samples::cut(gpu, (pointers, element), shape, 3) }
        });
        assert_equal(&found, &expected, &format!("{channels} channels in {element:?}"));
    }
}
