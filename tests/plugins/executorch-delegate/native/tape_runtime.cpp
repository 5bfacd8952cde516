// A backend of ExecuTorch's runtime that executes the tapes of docs/examples/hopyard-tape-machine on
// contiguous tensors of float32 of one shape. Loading the library registers it.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>

namespace {

using namespace executorch::runtime;
using executorch::aten::Tensor;

constexpr size_t kHeader = 10;
constexpr size_t kInstruction = 6;
constexpr uint16_t kNone = 0xFFFF;

uint16_t number_at(const uint8_t* bytes, size_t at) {
  return static_cast<uint16_t>(bytes[at] | (bytes[at + 1] << 8));
}

struct Instruction {
  uint16_t opcode, first, second;
};

struct Tape {
  uint16_t inputs;
  std::vector<Instruction> instructions;
  std::vector<uint16_t> results;
};

float computed(uint16_t opcode, float first, float second) {
  switch (opcode) {
    case 0: return first + second;
    case 1: return first - second;
    case 2: return first * second;
    case 3: return -first;
    case 4: return std::sin(first);
    default: return std::exp(first);
  }
}

class TapeRuntime final : public BackendInterface {
 public:
  bool is_available() const override { return true; }

  Result<DelegateHandle*> init(
      BackendInitContext&, FreeableBuffer* processed, ArrayRef<CompileSpec>) const override {
    const auto* bytes = static_cast<const uint8_t*>(processed->data());
    const size_t size = processed->size();
    if (size < kHeader || std::memcmp(bytes, "TAPE", 4) != 0) {
      return Error::DelegateInvalidCompatibility;
    }
    const size_t length = number_at(bytes, 6), outputs = number_at(bytes, 8);
    const size_t end = kHeader + length * kInstruction;
    if (size != end + 2 * outputs) {
      return Error::DelegateInvalidCompatibility;
    }
    auto* tape = new (std::nothrow) Tape{number_at(bytes, 4), {}, {}};
    if (tape == nullptr) {
      return Error::MemoryAllocationFailed;
    }
    for (size_t at = kHeader; at < end; at += kInstruction) {
      tape->instructions.push_back(
          {number_at(bytes, at), number_at(bytes, at + 2), number_at(bytes, at + 4)});
    }
    for (size_t at = end; at < size; at += 2) {
      tape->results.push_back(number_at(bytes, at));
    }
    processed->Free();
    return static_cast<DelegateHandle*>(tape);
  }

  Error execute(
      BackendExecutionContext&, DelegateHandle* handle, Span<EValue*> arguments) const override {
    const auto* tape = static_cast<const Tape*>(handle);
    if (arguments.size() != tape->inputs + tape->results.size() || tape->inputs == 0) {
      return Error::InvalidArgument;
    }
    std::vector<std::vector<float>> values;
    const Tensor first = arguments[0]->toTensor();
    const auto count = static_cast<size_t>(first.numel());
    for (size_t index = 0; index < tape->inputs; ++index) {
      const Tensor tensor = arguments[index]->toTensor();
      if (static_cast<size_t>(tensor.numel()) != count) {
        return Error::InvalidArgument;
      }
      const float* data = tensor.const_data_ptr<float>();
      values.emplace_back(data, data + count);
    }
    for (const Instruction& each : tape->instructions) {
      std::vector<float> value(count);
      for (size_t index = 0; index < count; ++index) {
        const float second = each.second == kNone ? 0.0F : values[each.second][index];
        value[index] = computed(each.opcode, values[each.first][index], second);
      }
      values.push_back(std::move(value));
    }
    for (size_t index = 0; index < tape->results.size(); ++index) {
      Tensor output = arguments[tape->inputs + index]->toTensor();
      // An output of a dynamic size is as large as it can be until somebody says otherwise.
      if (resize_tensor(output, first.sizes()) != Error::Ok) {
        return Error::InvalidArgument;
      }
      std::memcpy(
          output.mutable_data_ptr<float>(), values[tape->results[index]].data(),
          count * sizeof(float));
    }
    return Error::Ok;
  }

  void destroy(DelegateHandle* handle) const override { delete static_cast<Tape*>(handle); }
};

TapeRuntime runtime;
Backend backend{"tape-machine", &runtime};
[[maybe_unused]] const auto registered = register_backend(backend);

}  // namespace
