// The class DescriptorStore of src/native/addon.ts.
#pragma once

#include <napi.h>

Napi::Function DefineDescriptorStore(Napi::Env env);
