#include "tensorpress/adaptive_forms.h"

namespace tensorpress {

std::unique_ptr<AdaptiveEncoder> AdaptiveEncoder::make(AdaptiveForm form) {
  return form == AdaptiveForm::small ? make_small_encoder() : make_fast_encoder();
}

std::unique_ptr<AdaptiveDecoder> AdaptiveDecoder::make(const std::uint8_t* data, std::size_t nbytes) {
  if (nbytes == 0 || data[0] > static_cast<std::uint8_t>(AdaptiveForm::fast)) return nullptr;
  return data[0] == static_cast<std::uint8_t>(AdaptiveForm::small) ? make_small_decoder(data + 1, nbytes - 1) : make_fast_decoder(data + 1, nbytes - 1);
}

}  // namespace tensorpress
