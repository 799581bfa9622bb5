//! Modules, functions and kernel launches. Which functions there are: the crate's documentation.

use super::{
    abi::{Extra, Handle, In, LaunchConfig, Out, Parameter, Parameters, Text, Value, parameters},
    api,
    driver::Driver,
    graph::NodeKind,
    result::{INVALID_HANDLE, INVALID_IMAGE, INVALID_VALUE, NOT_FOUND, Result},
};
use crate::core::{
    memory::Address,
    work::{Duration, Effect, Kernel, Work},
};

/// Device time in ns of a kernel whose name says none.
const SHORT: u64 = 1_000;
/// Device time in ns of a round of `xsched_bench_work`.
const ROUND: u64 = 10;
/// A round of `xsched_bench_work`: word × factor + summand.
const FACTOR: u32 = 1_664_525;
const SUMMAND: u32 = 1_013_904_223;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Spin,
    Write,
    Add,
    Append,
    Until,
    Multiply,
    Work,
    Empty,
}

pub(crate) struct Function {
    module: Handle,
    action: Action,
    timed: bool,
    /// Loaded by its first launch, unless modules are loaded eagerly.
    loaded: bool,
}

impl Function {
    fn named(name: &str, module: Handle, loaded: bool) -> Option<Self> {
        let (action, timed) = match name {
            "spin_us" => (Action::Spin, true),
            "write_u32" => (Action::Write, false),
            "write_u32_us" => (Action::Write, true),
            "add_u32" => (Action::Add, false),
            "add_u32_us" => (Action::Add, true),
            "append_u32" => (Action::Append, false),
            "append_u32_us" => (Action::Append, true),
            "until_u32" => (Action::Until, false),
            "matmul_u32" => (Action::Multiply, false),
            "xsched_bench_work" => (Action::Work, false),
            "xsched_bench_empty" => (Action::Empty, false),
            _ => return None,
        };
        Some(Self {
            module,
            action,
            timed,
            loaded,
        })
    }

    fn shape(&self) -> &'static [Parameter] {
        use Parameter::{Address, Word};
        match (self.action, self.timed) {
            (Action::Work, _) => &[Address, Address, Address, Word, Word],
            (Action::Empty, _) => &[],
            (Action::Spin, _) => &[Word],
            (Action::Multiply, _) => &[Address, Address, Address, Word],
            (_, false) => &[Address, Word],
            (_, true) => &[Address, Word, Word],
        }
    }

    fn kernel(&self, values: &[Value]) -> Result<Kernel> {
        match self.action {
            Action::Work => return work(values),
            Action::Multiply => return multiply(values),
            Action::Empty => {
                return Ok(Kernel {
                    duration: Duration::Nanoseconds(SHORT),
                    effect: Effect::None,
                });
            }
            _ => {}
        }
        let (place, words): (Option<Address>, &[Value]) = match values {
            [Value::Address(place), rest @ ..] => (Some(*place), rest),
            rest => (None, rest),
        };
        let word = |index: usize| match words.get(index) {
            Some(Value::Word(word)) => Ok(*word),
            _ => Err(INVALID_VALUE),
        };
        let microseconds = |index| Ok(Duration::Nanoseconds(u64::from(word(index)?) * 1_000));
        let Some(place) = place else {
            return Ok(Kernel {
                duration: microseconds(0)?,
                effect: Effect::None,
            });
        };
        let value = word(0)?;
        let duration = match self.action {
            Action::Until => Duration::Until(place, value),
            _ if self.timed => microseconds(1)?,
            _ => Duration::Nanoseconds(SHORT),
        };
        let effect = match self.action {
            Action::Write => Effect::Write(place, value),
            Action::Add => Effect::Add(place, value),
            Action::Append => Effect::Append(place, value),
            Action::Spin | Action::Until | Action::Work | Action::Empty | Action::Multiply => {
                Effect::None
            }
        };
        Ok(Kernel { duration, effect })
    }
}

/// `matmul_u32`: product, factors, rows.
fn multiply(values: &[Value]) -> Result<Kernel> {
    let &[
        Value::Address(product),
        Value::Address(left),
        Value::Address(right),
        Value::Word(rows),
    ] = values
    else {
        return Err(INVALID_VALUE);
    };
    Ok(Kernel {
        duration: Duration::Nanoseconds(SHORT),
        effect: Effect::Multiply([product, left, right], rows),
    })
}

/// `xsched_bench_work`: data, counter, done, rounds, sequence.
fn work(values: &[Value]) -> Result<Kernel> {
    let &[
        Value::Address(data),
        Value::Address(_counter),
        Value::Address(done),
        Value::Word(rounds),
        Value::Word(sequence),
    ] = values
    else {
        return Err(INVALID_VALUE);
    };
    // All rounds in one step, by squaring: square is a round, then 2, 4, 8 … of them.
    let (mut factor, mut summand) = (1_u32, 0_u32);
    let (mut square, mut left) = ((FACTOR, SUMMAND), rounds);
    while left > 0 {
        if left & 1 == 1 {
            factor = factor.wrapping_mul(square.0);
            summand = summand.wrapping_mul(square.0).wrapping_add(square.1);
        }
        square = (
            square.0.wrapping_mul(square.0),
            square.1.wrapping_mul(square.0).wrapping_add(square.1),
        );
        left >>= 1;
    }
    Ok(Kernel {
        duration: Duration::Nanoseconds(SHORT + u64::from(rounds) * ROUND),
        effect: Effect::Work {
            data,
            factor,
            summand,
            done,
            sequence,
        },
    })
}

impl Driver {
    /// The kernel that a function and its parameters make.
    pub(crate) fn kernel(
        &self,
        function: Handle,
        pointers: Parameters,
        extra: Extra,
    ) -> Result<Work> {
        let tables = self.tables();
        let function = tables.functions.get(&function).ok_or(INVALID_HANDLE)?;
        let values = parameters(pointers, extra, function.shape())?;
        for value in &values {
            if let Value::Address(address) = value {
                if !address.is_aligned(4) {
                    return Err(INVALID_VALUE);
                }
                // A kernel would fault on it; here the launch is refused.
                tables.check_known(*address, 4)?;
            }
        }
        Ok(Work::Kernel(function.kernel(&values)?))
    }

    /// A function that belongs to no module.
    pub(crate) fn function_named(&self, name: &str) -> Result<Handle> {
        let function = Function::named(name, 0, true).ok_or(NOT_FOUND)?;
        let mut tables = self.tables();
        let handle = tables.handle();
        tables.functions.insert(handle, function);
        Ok(handle)
    }

    pub(crate) fn launch(
        &self,
        stream: Handle,
        function: Handle,
        pointers: Parameters,
        extra: Extra,
    ) -> Result<()> {
        let work = self.kernel(function, pointers, extra)?;
        self.load(function, stream)?;
        let submitted = self.submit(stream, NodeKind::Kernel, vec![work])?;
        if self.config.launch_blocking {
            self.finish(submitted);
        }
        Ok(())
    }

    /// The first launch of a function waits for the whole context, as loading may on a real
    /// device; one that is captured does not.
    fn load(&self, function: Handle, stream: Handle) -> Result<()> {
        let (context, wait) = {
            let mut tables = self.tables();
            let capturing = tables.stream(stream)?.capture.is_some();
            let context = tables.stream(stream)?.context;
            let function = tables.functions.get_mut(&function).ok_or(INVALID_HANDLE)?;
            let first = !std::mem::replace(&mut function.loaded, true);
            (context, first && !capturing)
        };
        if wait {
            self.wait_for_context(context)?;
        }
        Ok(())
    }

    fn load_module(&self, module: Out<Handle>, image: In<u8>) -> Result<()> {
        if image.is_null() {
            return Err(INVALID_IMAGE);
        }
        self.load_any_module(module)
    }

    /// A module of no matter what image.
    pub(crate) fn load_any_module(&self, module: Out<Handle>) -> Result<()> {
        self.check_capture()?;
        self.current()?;
        let mut tables = self.tables();
        let handle = tables.handle();
        tables.modules.insert(handle, Vec::new());
        module.set(handle)
    }
}

api! {
    // Any image will do: the functions of the stand-in are in every module.
    fn cuModuleLoadData(module: Out<Handle>, image: In<u8>) |driver| {
        driver.load_module(module, image)
    }
    fn cuModuleLoadDataEx(
        module: Out<Handle>, image: In<u8>, _count: u32, _options: usize, _values: usize,
    ) |driver| {
        driver.load_module(module, image)
    }
    fn cuModuleLoadFatBinary(module: Out<Handle>, image: In<u8>) |driver| {
        driver.load_module(module, image)
    }
    fn cuModuleUnload(module: Handle) |driver| {
        driver.check_capture()?;
        driver.wait_for_context(driver.current()?)?;
        let mut tables = driver.tables();
        tables.modules.remove(&module).ok_or(INVALID_HANDLE)?;
        tables.functions.retain(|_, function| function.module != module);
        Ok(())
    }
    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) |driver| {
        let name = name.read()?;
        let mut tables = driver.tables();
        let handle = tables.handle();
        let functions = tables.modules.get_mut(&module).ok_or(INVALID_HANDLE)?;
        let made = Function::named(&name, module, driver.config.eager_loading);
        let made = made.ok_or(NOT_FOUND)?;
        functions.push(handle);
        tables.functions.insert(handle, made);
        function.set(handle)
    }
    fn cuModuleGetLoadingMode(mode: Out<u32>) |driver| {
        // CU_MODULE_EAGER_LOADING, CU_MODULE_LAZY_LOADING.
        mode.set(if driver.config.eager_loading { 1 } else { 2 })
    }
    fn cuFuncGetModule(module: Out<Handle>, function: Handle) |driver| {
        let tables = driver.tables();
        module.set(tables.functions.get(&function).ok_or(INVALID_HANDLE)?.module)
    }
    fn cuFuncSetAttribute(function: Handle, _attribute: i32, _value: i32) |driver| {
        let tables = driver.tables();
        tables.functions.get(&function).map(drop).ok_or(INVALID_HANDLE)
    }
    fn cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: Handle) |driver| {
        let tables = driver.tables();
        tables.functions.get(&function).ok_or(INVALID_HANDLE)?;
        // CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK is 0.
        value.set(if attribute == 0 { 1024 } else { 0 })
    }
    ;
    fn cuLaunchKernel / cuLaunchKernel_ptsz(
        function: Handle, _grid_x: u32, _grid_y: u32, _grid_z: u32,
        _block_x: u32, _block_y: u32, _block_z: u32, _shared: u32,
        stream: Handle, parameters: Parameters, extra: Extra,
    ) |driver, null| {
        driver.launch(driver.stream(stream, null)?, function, parameters, extra)
    }
    fn cuLaunchCooperativeKernel / cuLaunchCooperativeKernel_ptsz(
        function: Handle, _grid_x: u32, _grid_y: u32, _grid_z: u32,
        _block_x: u32, _block_y: u32, _block_z: u32, _shared: u32,
        stream: Handle, parameters: Parameters,
    ) |driver, null| {
        driver.launch(driver.stream(stream, null)?, function, parameters, Extra::NONE)
    }
    fn cuLaunchKernelEx / cuLaunchKernelEx_ptsz(
        config: In<LaunchConfig>, function: Handle, parameters: Parameters, extra: Extra,
    ) |driver, null| {
        let stream = config.get()?.stream;
        driver.launch(driver.stream(stream, null)?, function, parameters, extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_go_by_their_names() {
        let shape = |name| Function::named(name, 0, true).map(|function| function.shape().len());
        assert_eq!(shape("spin_us"), Some(1));
        assert_eq!(shape("write_u32"), Some(2));
        assert_eq!(shape("append_u32_us"), Some(3));
        assert_eq!(shape("xsched_bench_work"), Some(5));
        assert_eq!(shape("xsched_bench_empty"), Some(0));
        assert_eq!(shape("gemm"), None);
    }

    #[test]
    fn rounds_of_work_are_counted_in_time_and_effect() {
        let place = Value::Address(crate::core::memory::Block::new(4).unwrap().start());
        let kernel = work(&[place, place, place, Value::Word(1000), Value::Word(7)]).unwrap();
        assert!(matches!(kernel.duration, Duration::Nanoseconds(11_000)));
        let round = |word: u32| word.wrapping_mul(FACTOR).wrapping_add(SUMMAND);
        let Effect::Work {
            factor, summand, ..
        } = kernel.effect
        else {
            panic!("another effect")
        };
        let expect = (0..1000).fold(5_u32, |word, _| round(word));
        assert_eq!(5_u32.wrapping_mul(factor).wrapping_add(summand), expect);
    }

    #[test]
    fn the_first_word_of_spin_is_its_duration() {
        let spin = Function::named("spin_us", 0, true).unwrap();
        let kernel = spin.kernel(&[Value::Word(50)]).unwrap();
        assert!(matches!(kernel.duration, Duration::Nanoseconds(50_000)));
    }
}
