//! Linear layers and their gradients.

use super::super::super::geometry::Finish;
use super::*;

#[test]
fn linear_layers_and_their_gradients_are_sums_of_products() {
    let cases = [(1, 1, 1), (16, 32, 32), (5, 70, 10), (40, 33, 100), (128, 64, 10), (3, 300, 17)];
    for (instructions, (batch, inputs, outputs)) in
        kinds().into_iter().flat_map(|instructions| cases.map(|case| (instructions, case)))
    {
        let name = format!("{batch} of {inputs} to {outputs}");
        let (x, grad) = (rounded(&noise(batch * inputs, 1)), rounded(&noise(batch * outputs, 2)));
        let (weight, bias) = (noise(outputs * inputs, 3), noise(outputs, 4));
        let of = |at: usize| bf16::from_f32(weight[at]).to_f64();
        let all = |mut f: Box<dyn FnMut(usize, usize, usize) + '_>| {
            for (row, output) in (0..batch).flat_map(|row| (0..outputs).map(move |output| (row, output))) {
                (0..inputs).for_each(|input| f(row * inputs + input, output * inputs + input, row * outputs + output));
            }
        };
        let expected = summed(batch * outputs, |term| {
            (0..batch * outputs).for_each(|at| term(at, f64::from(bias[at % outputs])));
            all(Box::new(|x_at, at, sum| term(sum, x[x_at].to_f64() * of(at))));
        });
        let finish = Finish { bias: Some(&bias), relu: false };
        let result: Vec<f32> = instructions.linear(batch, (inputs, outputs), &x, &weight, finish);
        assert_near(&result, &expected, inputs, false, &name);
        let expected = summed(outputs * inputs, |term| {
            all(Box::new(|x_at, at, sum| term(at, x[x_at].to_f64() * grad[sum].to_f64())));
        });
        let result = instructions.linear_weight_gradient(batch, (inputs, outputs), &x, &grad);
        assert_near(&result, &expected, batch, false, &name);
        let expected = summed(batch * inputs, |term| {
            all(Box::new(|x_at, at, sum| term(x_at, grad[sum].to_f64() * of(at))));
        });
        let result: Vec<f32> = instructions.linear_input_gradient(batch, (inputs, outputs), &weight, &grad);
        assert_near(&result, &expected, outputs, false, &name);
        let result: Vec<bf16> = instructions.linear_input_gradient(batch, (inputs, outputs), &weight, &grad);
        let result: Vec<f32> = result.into_iter().map(bf16::to_f32).collect();
        assert_near(&result, &expected, outputs, true, &name);
    }
}
