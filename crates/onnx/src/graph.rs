use std::collections::BTreeMap;
use std::marker::PhantomData;

use prost::bytes::Bytes;

use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto, type_proto,
};

/// A tensor in the graph, whose elements are `T`.
pub(crate) struct Value<T> {
    name: String,
    element: PhantomData<T>,
}

// Derived, it would ask for elements that can be copied.
impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self::named(self.name.clone())
    }
}

/// What a tensor can hold here.
pub(crate) trait Element {
    const DATA_TYPE: DataType;
}

impl Element for f32 {
    const DATA_TYPE: DataType = DataType::Float;
}

impl Element for i64 {
    const DATA_TYPE: DataType = DataType::Int64;
}

impl Element for bool {
    const DATA_TYPE: DataType = DataType::Bool;
}

/// A size of a tensor's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dim {
    /// The number of samples, which each run chooses.
    Batch,
    /// A size the model fixes.
    Fixed(i64),
}

/// Builds a graph node by node. Nodes come in the order they are added, which is a topological one.
pub(crate) struct Builder {
    nodes: Vec<NodeProto>,
    /// By name, so that equal models have equal bytes.
    initializers: BTreeMap<String, TensorProto>,
    scope: Vec<String>,
    /// How often each name was given, over all branches: ONNX wants names to be unique.
    given: BTreeMap<String, usize>,
}

/// The nodes around a branch while it is built.
pub(crate) struct Outer(Vec<NodeProto>);

/// What an `If` may run.
pub(crate) struct Branch(GraphProto);

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            initializers: BTreeMap::new(),
            scope: Vec::new(),
            given: BTreeMap::new(),
        }
    }

    /// Enters `name`, until [`Builder::leave`]; the names of what is added begin with it.
    pub(crate) fn enter(&mut self, name: &str) {
        self.scope.push(name.to_owned());
    }

    pub(crate) fn leave(&mut self) {
        self.scope.pop();
    }

    /// `name` below the entered scopes.
    pub(crate) fn path(&self, name: &str) -> String {
        let mut parts = self.scope.clone();
        parts.push(name.to_owned());
        parts.join(".")
    }

    /// Adds a node of one output.
    pub(crate) fn node<T>(
        &mut self,
        op: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> Value<T> {
        let mut name = self.path(op);
        let count = self.given.entry(name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            name.push_str(&format!("_{count}"));
        }
        self.nodes.push(NodeProto {
            name: Some(name.clone()),
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            attribute,
            ..NodeProto::default()
        });
        Value::named(name)
    }

    /// Adds a constant under its full `name`; `bytes` are its little-endian elements, row by row.
    pub(crate) fn initializer<T: Element>(
        &mut self,
        name: String,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Value<T> {
        let tensor = TensorProto {
            name: Some(name.clone()),
            data_type: Some(T::DATA_TYPE.into()),
            dims: shape.iter().map(|&size| size as i64).collect(),
            raw_data: Some(Bytes::from(bytes)),
            ..TensorProto::default()
        };
        self.initializers.insert(name.clone(), tensor);
        Value::named(name)
    }

    /// Starts a branch: what is added until [`Builder::end_branch`] belongs to it. It may use all
    /// that is already there.
    pub(crate) fn begin_branch(&mut self) -> Outer {
        Outer(std::mem::take(&mut self.nodes))
    }

    /// Ends the branch that gives `result`, of this shape, and goes on with the nodes around it.
    pub(crate) fn end_branch(
        &mut self,
        outer: Outer,
        name: &str,
        result: &Value<f32>,
        shape: &[Dim],
    ) -> Branch {
        Branch(GraphProto {
            name: Some(self.path(name)),
            node: std::mem::replace(&mut self.nodes, outer.0),
            output: vec![info::<f32>(result.name(), shape)],
            ..GraphProto::default()
        })
    }

    /// `then` if `condition`, one bool, else `otherwise`; only the chosen one is run.
    pub(crate) fn choose(
        &mut self,
        condition: &Value<bool>,
        then: Branch,
        otherwise: Branch,
    ) -> Value<f32> {
        let attributes = vec![
            graph_attribute("then_branch", then),
            graph_attribute("else_branch", otherwise),
        ];
        self.node("If", &[condition.name()], attributes)
    }

    /// Adds a node that gives `value` the name `name`, for an output.
    pub(crate) fn rename<T: Element>(
        &mut self,
        value: &Value<T>,
        name: &str,
        shape: &[Dim],
    ) -> ValueInfoProto {
        self.nodes.push(NodeProto {
            name: Some(name.to_owned()),
            op_type: Some("Identity".to_owned()),
            input: vec![value.name.clone()],
            output: vec![name.to_owned()],
            ..NodeProto::default()
        });
        info::<T>(name, shape)
    }

    /// The graph of all that was added.
    pub(crate) fn finish(
        self,
        name: &str,
        input: ValueInfoProto,
        output: Vec<ValueInfoProto>,
    ) -> GraphProto {
        GraphProto {
            name: Some(name.to_owned()),
            node: self.nodes,
            initializer: self.initializers.into_values().collect(),
            input: vec![input],
            output,
            ..GraphProto::default()
        }
    }
}

impl<T> Value<T> {
    /// The value of this name.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            element: PhantomData,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// What is said of an input or an output.
pub(crate) fn info<T: Element>(name: &str, shape: &[Dim]) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value as Size;
    let dim = shape.iter().map(|dim| tensor_shape_proto::Dimension {
        value: Some(match dim {
            Dim::Batch => Size::DimParam("batch".to_owned()),
            Dim::Fixed(size) => Size::DimValue(*size),
        }),
        ..tensor_shape_proto::Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: Some(T::DATA_TYPE.into()),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

pub(crate) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..attribute(name, AttributeType::Int)
    }
}

pub(crate) fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: values.to_vec(),
        ..attribute(name, AttributeType::Ints)
    }
}

pub(crate) fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        f: Some(value),
        ..attribute(name, AttributeType::Float)
    }
}

fn graph_attribute(name: &str, Branch(graph): Branch) -> AttributeProto {
    AttributeProto {
        g: Some(graph),
        ..attribute(name, AttributeType::Graph)
    }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(r#type.into()),
        ..AttributeProto::default()
    }
}
