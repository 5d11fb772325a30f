// Runs a target on the files and folders that are named: to look at coverage, and at one input without a fuzzer.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void run(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> data(std::istreambuf_iterator<char>(file), {});
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
}

}  // namespace

int main(int count, char** names) {
  for (int i = 1; i < count; ++i)
    if (std::filesystem::is_directory(names[i]))
      for (const auto& entry : std::filesystem::directory_iterator(names[i])) run(entry.path());
    else
      run(names[i]);
}
