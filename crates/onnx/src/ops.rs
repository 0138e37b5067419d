//! The operators of opset 17 that the model uses.

use crate::graph::{Builder, Element, Value, float_attribute, int_attribute, ints_attribute};

/// The square windows of a convolution, in pixels.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) kernel: i64,
    pub(crate) stride: i64,
    pub(crate) padding: i64,
    pub(crate) groups: i64,
}

impl Builder {
    pub(crate) fn matmul(&mut self, a: &Value<f32>, b: &Value<f32>) -> Value<f32> {
        self.node("MatMul", &[a.name(), b.name()], vec![])
    }

    pub(crate) fn add(&mut self, a: &Value<f32>, b: &Value<f32>) -> Value<f32> {
        self.node("Add", &[a.name(), b.name()], vec![])
    }

    pub(crate) fn sub(&mut self, a: &Value<f32>, b: &Value<f32>) -> Value<f32> {
        self.node("Sub", &[a.name(), b.name()], vec![])
    }

    pub(crate) fn mul(&mut self, a: &Value<f32>, b: &Value<f32>) -> Value<f32> {
        self.node("Mul", &[a.name(), b.name()], vec![])
    }

    pub(crate) fn div(&mut self, a: &Value<f32>, b: &Value<f32>) -> Value<f32> {
        self.node("Div", &[a.name(), b.name()], vec![])
    }

    pub(crate) fn erf(&mut self, x: &Value<f32>) -> Value<f32> {
        self.node("Erf", &[x.name()], vec![])
    }

    pub(crate) fn log(&mut self, x: &Value<f32>) -> Value<f32> {
        self.node("Log", &[x.name()], vec![])
    }

    pub(crate) fn sigmoid(&mut self, x: &Value<f32>) -> Value<f32> {
        self.node("Sigmoid", &[x.name()], vec![])
    }

    /// Over the last axis.
    pub(crate) fn softmax(&mut self, x: &Value<f32>) -> Value<f32> {
        self.node("Softmax", &[x.name()], vec![int_attribute("axis", -1)])
    }

    pub(crate) fn clip(&mut self, x: &Value<f32>, least: f32, most: f32) -> Value<f32> {
        let (least, most) = (self.scalar(least), self.scalar(most));
        self.node("Clip", &[x.name(), least.name(), most.name()], vec![])
    }

    /// Normalises over the last axis.
    pub(crate) fn layer_norm(
        &mut self,
        x: &Value<f32>,
        weight: &Value<f32>,
        bias: &Value<f32>,
        epsilon: f32,
    ) -> Value<f32> {
        self.node(
            "LayerNormalization",
            &[x.name(), weight.name(), bias.name()],
            vec![float_attribute("epsilon", epsilon)],
        )
    }

    /// A convolution of square windows; no bias where there is none.
    pub(crate) fn conv(
        &mut self,
        x: &Value<f32>,
        weight: &Value<f32>,
        bias: Option<&Value<f32>>,
        window: Window,
    ) -> Value<f32> {
        let mut inputs = vec![x.name(), weight.name()];
        inputs.extend(bias.map(Value::name));
        let attributes = vec![
            ints_attribute("kernel_shape", &[window.kernel; 2]),
            ints_attribute("strides", &[window.stride; 2]),
            ints_attribute("pads", &[window.padding; 4]),
            int_attribute("group", window.groups),
        ];
        self.node("Conv", &inputs, attributes)
    }

    pub(crate) fn exp(&mut self, x: &Value<f32>) -> Value<f32> {
        self.node("Exp", &[x.name()], vec![])
    }

    pub(crate) fn greater(&mut self, a: &Value<f32>, b: &Value<f32>) -> Value<bool> {
        self.node("Greater", &[a.name(), b.name()], vec![])
    }

    pub(crate) fn number(&mut self, x: &Value<bool>) -> Value<f32> {
        let to = int_attribute("to", i32::from(f32::DATA_TYPE).into());
        self.node("Cast", &[x.name()], vec![to])
    }

    /// Sum over `axis`, which stays with one element.
    pub(crate) fn sum(&mut self, x: &Value<f32>, axis: i64) -> Value<f32> {
        // Unlike ReduceMean of this opset, it takes its axes as an input.
        let axes = self.vector(&[axis]);
        self.node("ReduceSum", &[x.name(), axes.name()], vec![])
    }

    /// Mean over `axis`, which goes.
    pub(crate) fn mean(&mut self, x: &Value<f32>, axis: i64) -> Value<f32> {
        let attributes = vec![
            ints_attribute("axes", &[axis]),
            int_attribute("keepdims", 0),
        ];
        self.node("ReduceMean", &[x.name()], attributes)
    }

    /// The slice at `index` of `axis`, which goes.
    pub(crate) fn select(&mut self, x: &Value<f32>, axis: i64, index: i64) -> Value<f32> {
        let index = self.integers(&format!("{index}"), &[], &[index]);
        let axis = int_attribute("axis", axis);
        self.node("Gather", &[x.name(), index.name()], vec![axis])
    }

    /// As ONNX's Reshape: 0 keeps a size, -1 takes what is left.
    pub(crate) fn reshape<T>(&mut self, x: &Value<T>, shape: &[i64]) -> Value<T> {
        let shape = self.vector(shape);
        self.node("Reshape", &[x.name(), shape.name()], vec![])
    }

    pub(crate) fn transpose(&mut self, x: &Value<f32>, axes: &[i64]) -> Value<f32> {
        self.node("Transpose", &[x.name()], vec![ints_attribute("perm", axes)])
    }

    pub(crate) fn expand<T>(&mut self, x: &Value<T>, shape: &Value<i64>) -> Value<T> {
        self.node("Expand", &[x.name(), shape.name()], vec![])
    }

    /// Columns `from..to` of the last axis.
    pub(crate) fn columns(&mut self, x: &Value<f32>, from: i64, to: i64) -> Value<f32> {
        let (from, to, axis) = (self.vector(&[from]), self.vector(&[to]), self.vector(&[-1]));
        let inputs = [x.name(), from.name(), to.name(), axis.name()];
        self.node("Slice", &inputs, vec![])
    }

    pub(crate) fn concat<T>(&mut self, values: &[&Value<T>], axis: i64) -> Value<T> {
        let inputs: Vec<&str> = values.iter().map(|value| value.name()).collect();
        self.node("Concat", &inputs, vec![int_attribute("axis", axis)])
    }

    pub(crate) fn identity(&mut self, x: &Value<f32>) -> Value<f32> {
        self.node("Identity", &[x.name()], vec![])
    }

    /// [B, 1, ..] of `rank` sizes: as many samples as `x` has.
    pub(crate) fn batch_by_ones<T>(&mut self, x: &Value<T>, rank: usize) -> Value<i64> {
        let first = vec![int_attribute("start", 0), int_attribute("end", 1)];
        let batch = self.node("Shape", &[x.name()], first);
        let ones = self.vector(&vec![1; rank - 1]);
        self.concat(&[&batch, &ones], 0)
    }

    /// `one` where `x` has one sample, else `several`: [] each.
    pub(crate) fn by_batch(
        &mut self,
        x: &Value<f32>,
        one: &Value<f32>,
        several: &Value<f32>,
    ) -> Value<f32> {
        let batch = self.batch_by_ones(x, 2);
        let ones = self.vector(&[1, 1]);
        let alone: Value<bool> = self.node("Equal", &[batch.name(), ones.name()], vec![]);
        let inputs = [alone.name(), one.name(), several.name()];
        let chosen: Value<f32> = self.node("Where", &inputs, vec![]);
        self.select(&chosen, 0, 0)
    }

    pub(crate) fn scalar(&mut self, value: f32) -> Value<f32> {
        let name = format!("constant.f32.{value}");
        self.initializer(name, &[], value.to_le_bytes().to_vec())
    }

    pub(crate) fn boolean(&mut self, value: bool, shape: &[usize]) -> Value<bool> {
        let count = shape.iter().product();
        let name = format!("constant.bool.{value}.{shape:?}");
        self.initializer(name, shape, vec![value.into(); count])
    }

    fn vector(&mut self, values: &[i64]) -> Value<i64> {
        self.integers(&format!("{values:?}"), &[values.len()], values)
    }

    fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) -> Value<i64> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.initializer(format!("constant.i64.{name}"), shape, bytes.collect())
    }
}
