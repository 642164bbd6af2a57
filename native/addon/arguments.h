// Properties of a command's arguments, checked: each throws a Napi::TypeError that names the property.
#pragma once

#include <cstring>
#include <string>

#include <napi.h>

extern "C" {
#include "mem/bucket.h"
}

[[noreturn]] inline void Reject(const Napi::Object &o, const char *key, const char *want)
{
    throw Napi::TypeError::New(o.Env(), std::string(key) + " must be " + want);
}

inline std::string Text(const Napi::Object &o, const char *key, size_t max)
{
    Napi::Value v = o.Get(key);
    if (!v.IsString())
        Reject(o, key, "a string");
    std::string s = v.As<Napi::String>();
    if (s.size() > max)
        Reject(o, key, ("at most " + std::to_string(max) + " bytes long").c_str());
    return s;
}

template <size_t N> void CopyText(const Napi::Object &o, const char *key, char (&to)[N])
{
    std::string s = Text(o, key, N - 1);
    std::memcpy(to, s.c_str(), s.size() + 1);
}

inline double Number(const Napi::Object &o, const char *key, double min, double max)
{
    Napi::Value v = o.Get(key);
    if (!v.IsNumber())
        Reject(o, key, "a number");
    double n = v.As<Napi::Number>().DoubleValue();
    if (!(n >= min && n <= max))
        Reject(o, key, ("from " + std::to_string(min) + " to " + std::to_string(max)).c_str());
    return n;
}

inline uint32_t U32(const Napi::Object &o, const char *key)
{
    return static_cast<uint32_t>(Number(o, key, 0, UINT32_MAX));
}

// Bytes and counts; JavaScript numbers are exact up to 2^53.
inline uint64_t U64(const Napi::Object &o, const char *key)
{
    return static_cast<uint64_t>(Number(o, key, 0, 9007199254740992.0));
}

inline bool Flag(const Napi::Object &o, const char *key)
{
    Napi::Value v = o.Get(key);
    if (!v.IsBoolean())
        Reject(o, key, "true or false");
    return v.As<Napi::Boolean>();
}

inline Napi::Object Object(const Napi::Object &o, const char *key)
{
    Napi::Value v = o.Get(key);
    if (!v.IsObject())
        Reject(o, key, "an object");
    return v.As<Napi::Object>();
}

// What names the content of a layer: 16 hexadecimal digits, not all 0.
inline uint64_t Content(const Napi::Object &o, const char *key)
{
    std::string s = Text(o, key, 16);
    if (s.size() != 16 || s.find_first_not_of("0123456789abcdef") != std::string::npos || s == "0000000000000000")
        Reject(o, key, "16 hexadecimal digits, not all 0");
    return std::stoull(s, nullptr, 16);
}

inline bool Has(const Napi::Object &o, const char *key)
{
    return !o.Get(key).IsUndefined();
}

// { bytesPerS, bytesBurst, opsPerS, opsBurst }; 0: none.
inline or_limit Limit(const Napi::Object &o, const char *key)
{
    Napi::Value v = o.Get(key);
    if (!v.IsObject())
        Reject(o, key, "an object");
    Napi::Object limit = v.As<Napi::Object>();
    return {U64(limit, "bytesPerS"), U64(limit, "bytesBurst"), U64(limit, "opsPerS"), U64(limit, "opsBurst")};
}

// For results.
inline void Put(Napi::Object &o, const char *key, uint64_t n)
{
    o.Set(key, Napi::Number::New(o.Env(), static_cast<double>(n)));
}
