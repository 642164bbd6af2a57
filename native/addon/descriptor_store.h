#pragma once

#include <napi.h>

// The class DescriptorStore of src/native/addon.ts.
Napi::Function DefineDescriptorStore(Napi::Env env);
