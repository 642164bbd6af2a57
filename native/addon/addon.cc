// The engine as a JavaScript class: start, submit, stop. The worker thread never enters JavaScript; it
// rings a thread-safe function, and the event loop then reaps what has finished.
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "arguments.h"
#include "convert.h"
#include "descriptor_store.h"

namespace
{

const std::unordered_map<std::string, or_command_type> kCommands = {
    {"stats", OR_CMD_STATS},
    {"host.add", OR_CMD_HOST_ADD},
    {"host.admit", OR_CMD_HOST_ADMIT},
    {"host.remove", OR_CMD_HOST_REMOVE},
    {"hosts", OR_CMD_HOSTS},
    {"volume.open", OR_CMD_VOLUME_OPEN},
    {"volume.close", OR_CMD_VOLUME_CLOSE},
    {"volume.give", OR_CMD_VOLUME_GIVE},
    {"volume.cache", OR_CMD_VOLUME_CACHE},
    {"cache.set", OR_CMD_CACHE_SET},
    {"cache.list", OR_CMD_CACHE_LIST},
    {"volume.cut", OR_CMD_VOLUME_CUT},
    {"volume.layers", OR_CMD_VOLUME_LAYERS},
    {"volume.flush", OR_CMD_VOLUME_FLUSH},
    {"volume.rebase", OR_CMD_VOLUME_REBASE},
    {"layer.create", OR_CMD_LAYER_CREATE},
    {"layer.merge", OR_CMD_LAYER_MERGE},
    {"export.add", OR_CMD_EXPORT_ADD},
    {"export.set", OR_CMD_EXPORT_SET},
    {"export.remove", OR_CMD_EXPORT_REMOVE},
    {"loads", OR_CMD_LOADS},
    {"document.set", OR_CMD_DOCUMENT_SET},
    {"device.add", OR_CMD_DEVICE_ADD},
    {"device.set", OR_CMD_DEVICE_SET},
    {"device.remove", OR_CMD_DEVICE_REMOVE},
    {"devices", OR_CMD_DEVICES},
    {"report.put", OR_CMD_REPORT},
    {"nic.open", OR_CMD_NIC_OPEN},
    {"nic.set", OR_CMD_NIC_SET},
    {"nic.close", OR_CMD_NIC_CLOSE},
    {"nic.list", OR_CMD_NICS},
    {"domain.open", OR_CMD_DOMAIN_OPEN},
    {"domain.set", OR_CMD_DOMAIN_SET},
    {"domain.close", OR_CMD_DOMAIN_CLOSE},
    {"domain.cut", OR_CMD_DOMAIN_CUT},
    {"domain.commit", OR_CMD_DOMAIN_COMMIT},
    {"domain.fence", OR_CMD_DOMAIN_FENCE},
    {"domain.reset", OR_CMD_DOMAIN_RESET},
    {"domain.abort", OR_CMD_DOMAIN_ABORT},
    {"domain.list", OR_CMD_DOMAIN_LIST},
    {"volume.protect", OR_CMD_VOLUME_PROTECT},
    {"journal.create", OR_CMD_JOURNAL_CREATE},
    {"keep", OR_CMD_KEEP},
    {"keep.give-up", OR_CMD_KEEP_GIVE_UP},
    {"drain", OR_CMD_DRAIN},
};

// While a predecessor that ends still has the interface.
constexpr uint32_t kInterfaceTimeoutMs = 5000;

class Engine;

// Opens what a command needs on a thread of the pool, because that may block: a volume's lock or a tap may have
// to be waited for. Then submits the command.
class OpenFirst : public Napi::AsyncWorker
{
  public:
    // Puts what it opens into the command; returns -errno with a sentence in why when it cannot.
    using Opener = std::function<int(or_command *command, char *why)>;

    OpenFirst(Engine *engine, or_command *command, Opener opener, Napi::Promise::Deferred deferred);
    void Execute() override;
    void OnOK() override;

  private:
    Engine *engine_;
    or_command *command_;
    Opener opener_;
    Napi::Promise::Deferred deferred_;
    int err_ = 0;
    char why_[OR_WHY_MAX] = "out of memory";
};

// The command has one descriptor.
OpenFirst::Opener OpensOne(std::function<int(char *why)> open)
{
    return [=](or_command *command, char *why) { return command->fd = open(why); }; // freeing it knows -errno as none
}

struct LayerPath {
    std::string path;
    or_layer_place place;
};

LayerPath LayerFrom(const Napi::Object &o, or_layer_use use)
{
    or_layer_place place = {};
    place.content = Content(o, "content");
    place.header = Has(o, "header") ? Content(o, "header") : 0;
    place.raw = Has(o, "raw") && Flag(o, "raw");
    place.use = use;
    return {Text(o, "path", 4096), place};
}

OpenFirst::Opener OpensLayers(std::vector<LayerPath> paths, uint32_t timeout_ms)
{
    return [=](or_command *command, char *why) {
        command->layers = static_cast<or_layer_file *>(std::calloc(paths.size(), sizeof *command->layers));
        if (!command->layers)
            return -ENOMEM;
        for (const LayerPath &layer : paths) {
            or_layer_place place = layer.place;
            place.path = layer.path.c_str();
            int err = or_layer_file_open(&place, timeout_ms, &command->layers[command->layer_count], why);
            if (err)
                return err;
            command->layer_count++;
        }
        return 0;
    };
}

// Uppermost first, which is opened for `first`.
OpenFirst::Opener OpensLayersOf(const Napi::Object &args, or_layer_use first)
{
    Napi::Value value = args.Get("layers");
    if (!value.IsArray() || value.As<Napi::Array>().Length() < 1 || value.As<Napi::Array>().Length() > OR_LAYERS_MAX)
        Reject(args, "layers", "a list of 1 to 64");
    Napi::Array list = value.As<Napi::Array>();
    std::vector<LayerPath> paths;
    for (uint32_t i = 0; i < list.Length(); i++) {
        if (!list.Get(i).IsObject())
            Reject(args, "layers", "a list of objects");
        paths.push_back(LayerFrom(list.Get(i).As<Napi::Object>(), i == 0 ? first : OR_LAYER_READ));
    }
    return OpensLayers(std::move(paths), args.Get("lockTimeoutMs").ToNumber());
}

OpenFirst::Opener CreatesLayer(const Napi::Object &args)
{
    std::string path = Text(args, "path", 4096);
    uint64_t size = U64(args, "sizeBytes"), content = Content(args, "content");
    uint64_t continues = Has(args, "continues") ? Content(args, "continues") : 0;
    return [=](or_command *, char *why) { return or_layer_file_create(path.c_str(), size, content, continues, why); };
}

OpenFirst::Opener CreatesJournal(const Napi::Object &args)
{
    std::string path = Text(args, "path", 4096);
    uint64_t bytes = U64(args, "bytes");
    return [=](or_command *, char *why) { return or_journal_file_create(path.c_str(), bytes, why); };
}

OpenFirst::Opener OpensJournal(const Napi::Object &args)
{
    std::string path = Text(args, "journal", 4096);
    uint32_t timeout_ms = args.Get("lockTimeoutMs").ToNumber();
    return OpensOne([=](char *why) { return or_volume_file_lock(path.c_str(), false, timeout_ms, why); });
}

// What opens the command's files; empty: it needs none.
OpenFirst::Opener OpenerFor(const or_command &command, const Napi::Object &args)
{
    if (command.type == OR_CMD_LAYER_CREATE)
        return CreatesLayer(args);
    if (command.type == OR_CMD_JOURNAL_CREATE)
        return CreatesJournal(args);
    if (command.type == OR_CMD_DOMAIN_OPEN)
        return OpensJournal(args);
    if (command.type == OR_CMD_VOLUME_CUT)
        return OpensLayers({LayerFrom(args, OR_LAYER_HEAD)}, args.Get("lockTimeoutMs").ToNumber());
    if (command.type == OR_CMD_VOLUME_REBASE)
        return OpensLayersOf(args, OR_LAYER_READ);
    if (command.type == OR_CMD_LAYER_MERGE)
        return OpensLayers(
            {LayerFrom(Object(args, "from"), OR_LAYER_READ), LayerFrom(Object(args, "into"), OR_LAYER_MERGE)},
            args.Get("lockTimeoutMs").ToNumber());
    if (command.type == OR_CMD_VOLUME_OPEN && command.kind == OR_VOLUME_FILE && Has(args, "layers"))
        return OpensLayersOf(args, command.read_only ? OR_LAYER_READ : OR_LAYER_HEAD);
    if (command.type == OR_CMD_VOLUME_OPEN && command.kind == OR_VOLUME_FILE) {
        std::string path = args.Get("path").ToString();
        uint32_t timeout_ms = args.Get("lockTimeoutMs").ToNumber();
        bool read_only = command.read_only;
        return OpensOne([=](char *why) { return or_volume_file_lock(path.c_str(), read_only, timeout_ms, why); });
    }
    if (command.type == OR_CMD_NIC_OPEN && command.nic.kind != OR_NIC_HUB) {
        std::string name = args.Get("interface").ToString();
        if (command.nic.kind == OR_NIC_TAP)
            return OpensOne([=](char *why) { return or_tap_open(name.c_str(), false, kInterfaceTimeoutMs, why); });
        return OpensOne([=](char *why) { return or_macvtap_open(name.c_str(), kInterfaceTimeoutMs, why); });
    }
    return {};
}

class Engine : public Napi::ObjectWrap<Engine>
{
  public:
    static Napi::Function Define(Napi::Env env)
    {
        return DefineClass(env, "Engine",
                           {InstanceMethod("begin", &Engine::Begin), InstanceMethod("submit", &Engine::Submit),
                            InstanceMethod("halt", &Engine::Halt), InstanceMethod("stop", &Engine::Stop),
                            InstanceMethod("port", &Engine::Port)});
    }

    // new Engine(config, onEvent): begins at once unless config.paused.
    explicit Engine(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Engine>(info)
    {
        Napi::Env env = info.Env();
        if (info.Length() != 2 || !info[0].IsObject() || !info[1].IsFunction())
            throw Napi::TypeError::New(env, "Engine(config, onEvent)");
        or_engine_config config = ConfigFrom(info[0].As<Napi::Object>());
        on_event_ = Napi::Persistent(info[1].As<Napi::Function>());
        // Calls that the worker has queued come until the function is finalized: this object must live so long.
        auto *alive = new Engine *(nullptr);
        wake_ = Napi::ThreadSafeFunction::New(
            env, Napi::Function::New(env, [](const Napi::CallbackInfo &) {}), "outrigger", 0, 1,
            [](Napi::Env, Engine **engine) {
                if (*engine) {
                    (*engine)->on_event_.Reset(); // it may refer to this object in turn
                    (*engine)->Unref();
                }
                delete engine;
            },
            alive);
        config.wake = [](void *arg) { static_cast<Engine *>(arg)->Wake(); };
        config.arg = this;
        char why[OR_WHY_MAX] = {};
        engine_ = or_engine_open(&config, why);
        bool paused = info[0].As<Napi::Object>().Get("paused").ToBoolean();
        if (engine_ && !paused)
            Run(why);
        if (!engine_) {
            wake_.Release();
            throw Napi::Error::New(env, why);
        }
        Ref(); // until stop(), and until what the worker queued has been dealt with
        *alive = this;
    }

    // The command is taken over. Rejects at once when too many are under way.
    void Send(or_command *command, const Napi::Promise::Deferred &deferred)
    {
        Napi::Env env = Env();
        auto pending = std::make_unique<Napi::Promise::Deferred>(deferred);
        command->tag = reinterpret_cast<uint64_t>(pending.get());
        int err = running_ ? or_engine_submit(engine_, command) : -ESHUTDOWN;
        if (err) {
            or_command_free(command);
            deferred.Reject(
                ErrorOf(env, err, running_ ? "too many commands are under way: try again" : "the engine is stopped"));
            return;
        }
        pending_.insert(pending.release()); // until the command is reaped
    }

  private:
    // Starts the worker; closes the engine when that fails.
    void Run(char *why)
    {
        running_ = or_engine_begin(engine_, why) == 0;
        if (!running_) {
            or_engine_close(engine_);
            engine_ = nullptr;
        }
    }

    // Begins what was made with config.paused. Throws as the constructor does; then only stop() makes sense.
    Napi::Value Begin(const Napi::CallbackInfo &info)
    {
        char why[OR_WHY_MAX] = "the engine is stopped";
        if (engine_ && !running_)
            Run(why);
        if (!running_)
            throw Napi::Error::New(info.Env(), why);
        return info.Env().Undefined();
    }

    // submit(name, args): a promise of the result.
    Napi::Value Submit(const Napi::CallbackInfo &info)
    {
        Napi::Env env = info.Env();
        std::string name = info[0].As<Napi::String>();
        Napi::Object args = info[1].As<Napi::Object>();
        auto known = kCommands.find(name);
        if (known == kCommands.end())
            throw Napi::TypeError::New(env, "unknown command " + name);
        auto deferred = Napi::Promise::Deferred::New(env);
        std::unique_ptr<or_command, decltype(&or_command_free)> command(or_command_new(known->second), or_command_free);
        if (!command)
            throw Napi::Error::New(env, "out of memory");
        FillCommand(command.get(), args);
        if (auto opener = OpenerFor(*command, args)) {
            (new OpenFirst(this, command.release(), std::move(opener), deferred))->Queue();
            return deferred.Promise();
        }
        Send(command.release(), deferred);
        return deferred.Promise();
    }

    Napi::Value Port(const Napi::CallbackInfo &info)
    {
        uint8_t mac[6] = {};
        uint32_t mtu = 0;
        if (engine_)
            or_engine_port(engine_, mac, &mtu);
        char text[18];
        std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                      mac[5]);
        Napi::Object o = Napi::Object::New(info.Env());
        o.Set("mac", text);
        o.Set("mtu", mtu);
        return o;
    }

    // Blocks until the worker has ended; commands under way are rejected. Idempotent.
    Napi::Value Halt(const Napi::CallbackInfo &info)
    {
        if (running_) {
            or_volume_file_lock_cancel();
            or_engine_halt(engine_);
            Reap(); // what it said at its end
            running_ = false;
            for (Napi::Promise::Deferred *deferred : pending_) {
                deferred->Reject(ErrorOf(info.Env(), -ECANCELED, "the engine is stopped"));
                delete deferred;
            }
            pending_.clear();
        }
        return info.Env().Undefined();
    }

    // Halts, and closes the ports, for which it may block some tens of milliseconds. Idempotent.
    Napi::Value Stop(const Napi::CallbackInfo &info)
    {
        Halt(info);
        if (engine_)
            or_engine_close(engine_);
        engine_ = nullptr;
        if (!released_)
            wake_.Release(); // unreferences this object in the end
        released_ = true;
        return info.Env().Undefined();
    }

    void Wake() // the worker's thread
    {
        if (!ringing_.exchange(true))
            wake_.NonBlockingCall(this, [](Napi::Env, Napi::Function, Engine *self) { self->Reap(); });
    }

    void Reap()
    {
        ringing_ = false;
        or_command *command;
        or_event *event;
        Napi::Env env = Env();
        Napi::HandleScope scope(env);
        while (running_ && or_engine_reap(engine_, &command, &event)) {
            if (event) {
                std::unique_ptr<or_event, decltype(&or_event_free)> e(event, or_event_free);
                on_event_.Call({EventObject(env, *e)});
                continue;
            }
            std::unique_ptr<or_command, decltype(&or_command_free)> c(command, or_command_free);
            std::unique_ptr<Napi::Promise::Deferred> deferred(reinterpret_cast<Napi::Promise::Deferred *>(c->tag));
            pending_.erase(deferred.get());
            if (c->error)
                deferred->Reject(ErrorOf(env, c->error, c->why));
            else
                deferred->Resolve(ResultOf(env, *c));
        }
    }

    or_engine *engine_ = nullptr;
    bool running_ = false;
    bool released_ = false;
    std::unordered_set<Napi::Promise::Deferred *> pending_; // of commands that are under way
    std::atomic<bool> ringing_{false};
    Napi::FunctionReference on_event_;
    Napi::ThreadSafeFunction wake_;
};

OpenFirst::OpenFirst(Engine *engine, or_command *command, Opener opener, Napi::Promise::Deferred deferred)
    : Napi::AsyncWorker(deferred.Env()), engine_(engine), command_(command), opener_(std::move(opener)),
      deferred_(deferred)
{
    engine_->Ref();
}

void OpenFirst::Execute()
{
    err_ = opener_(command_, why_);
}

void OpenFirst::OnOK()
{
    if (err_ < 0) {
        or_command_free(command_);
        deferred_.Reject(ErrorOf(Env(), err_, why_));
    } else {
        engine_->Send(command_, deferred_);
    }
    engine_->Unref();
}

Napi::Object Init(Napi::Env env, Napi::Object exports)
{
    exports.Set("Engine", Engine::Define(env));
    exports.Set("DescriptorStore", DefineDescriptorStore(env));
    return exports;
}

} // namespace

NODE_API_MODULE(outrigger, Init)
