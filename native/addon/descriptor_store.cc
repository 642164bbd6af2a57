// The supervisor's descriptor store (native/keep/store.h) as a JavaScript class. A small thread serves it, so
// that a busy event loop delays no engine; the event loop is only told of changes.
#include "descriptor_store.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "convert.h"

extern "C" {
#include "keep/store.h"
}

namespace
{

class DescriptorStore : public Napi::ObjectWrap<DescriptorStore>
{
  public:
    static Napi::Function Define(Napi::Env env)
    {
        return DefineClass(
            env, "DescriptorStore",
            {InstanceMethod("devices", &DescriptorStore::Devices), InstanceMethod("close", &DescriptorStore::Close)});
    }

    // new DescriptorStore(path, onChange?)
    explicit DescriptorStore(const Napi::CallbackInfo &info) : Napi::ObjectWrap<DescriptorStore>(info)
    {
        Napi::Env env = info.Env();
        bool notify = info.Length() > 1 && !info[1].IsUndefined();
        if (info.Length() < 1 || !info[0].IsString() || (notify && !info[1].IsFunction()))
            throw Napi::TypeError::New(env, "DescriptorStore(path, onChange?)");
        std::string path = info[0].As<Napi::String>();
        if (notify)
            on_change_ = Napi::Persistent(info[1].As<Napi::Function>());
        int err = 0;
        store_ = or_keep_store_open(
            path.c_str(), [](void *arg) { static_cast<DescriptorStore *>(arg)->changed_ = true; }, this, &err);
        if (!store_)
            throw Napi::Error(env,
                              ErrorOf(env, err, ("cannot listen on " + path + ": " + std::strerror(-err)).c_str()));
        stop_ = eventfd(0, EFD_CLOEXEC);
        changes_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo &) {}),
                                                 "outrigger store", 0, 1, [this](Napi::Env) {
                                                     if (closed_)
                                                         Unref();
                                                 });
        thread_ = std::thread(&DescriptorStore::Run, this);
        napi_add_env_cleanup_hook(env, End, this);
        Ref(); // alive until close(), and the last call of changes_ after it
    }

  private:
    void Run() // the thread
    {
        pollfd fds[2] = {{or_keep_store_fd(store_), POLLIN, 0}, {stop_, POLLIN, 0}};
        while (poll(fds, 2, -1) < 0 || !fds[1].revents) {
            std::lock_guard<std::mutex> lock(mutex_);
            or_keep_store_serve(store_);
            if (changed_ && !ringing_.exchange(true))
                changes_.NonBlockingCall(this, [](Napi::Env, Napi::Function, DescriptorStore *self) { self->Tell(); });
            changed_ = false;
        }
    }

    void Tell()
    {
        ringing_ = false;
        if (on_change_.IsEmpty() || !store_)
            return;
        Napi::Env env = Env();
        Napi::HandleScope scope(env);
        on_change_.Call({List(env)});
    }

    Napi::Value List(Napi::Env env)
    {
        std::vector<uint32_t> ids;
        if (store_) {
            std::lock_guard<std::mutex> lock(mutex_);
            ids.resize(or_keep_store_devices(store_, nullptr, 0));
            or_keep_store_devices(store_, ids.data(), static_cast<uint32_t>(ids.size()));
        }
        Napi::Array list = Napi::Array::New(env, ids.size());
        for (size_t i = 0; i < ids.size(); i++)
            list.Set(static_cast<uint32_t>(i), Napi::Number::New(env, ids[i]));
        return list;
    }

    Napi::Value Devices(const Napi::CallbackInfo &info)
    {
        return List(info.Env());
    }

    Napi::Value Close(const Napi::CallbackInfo &info)
    {
        if (store_) {
            napi_remove_env_cleanup_hook(info.Env(), End, this);
            closed_ = true;
            End(this);
        }
        return info.Env().Undefined();
    }

    // Also when Node ends without close().
    static void End(void *arg)
    {
        auto *self = static_cast<DescriptorStore *>(arg);
        eventfd_write(self->stop_, 1);
        self->thread_.join();
        close(self->stop_);
        or_keep_store_close(self->store_);
        self->store_ = nullptr;
        self->changes_.Release();
    }

    or_keep_store *store_ = nullptr; // null: closed
    int stop_ = -1;
    bool changed_ = false, closed_ = false;
    std::atomic<bool> ringing_{false};
    std::mutex mutex_; // of store_ while the thread runs
    std::thread thread_;
    Napi::FunctionReference on_change_;
    Napi::ThreadSafeFunction changes_;
};

} // namespace

Napi::Function DefineDescriptorStore(Napi::Env env)
{
    return DescriptorStore::Define(env);
}
