"""A page in headless Chromium, spoken to in the DevTools protocol over two pipes: no driver, no library, no open port."""
import base64
import json
import os
import shutil
import subprocess
import tempfile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """with Page(path) as page: page.size(390, 800); page.ask("document.title"); page.key("ArrowRight"); page.errors"""

    def __init__(self, path):
        self.path = path
        self.errors = []
        self.n = 0

    def __enter__(self):
        self.home = tempfile.TemporaryDirectory()
        to_read, self.to = os.pipe()
        self.back, back_write = os.pipe()
        # The program reads commands from descriptor 3 and answers on 4.
        shell = f"exec 3<&{to_read} 4>&{back_write}; exec \"$@\""
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "-", CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={self.home.name}", "about:blank"],
            pass_fds=(to_read, back_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(back_write)
        self.pending = b""
        self.session = None
        target = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"][0]["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")
        self.call("Page.navigate", url="file://" + str(self.path))
        self.until("Page.loadEventFired")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        os.close(self.to)
        os.close(self.back)
        self.home.cleanup()

    def receive(self):
        while b"\0" not in self.pending:
            more = os.read(self.back, 1 << 20)
            assert more, "the browser went away"
            self.pending += more
        one, self.pending = self.pending.split(b"\0", 1)
        message = json.loads(one)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
            self.errors.append("asked the network for " + params["request"]["url"])
        return message

    def until(self, method):
        while self.receive().get("method") != method:
            pass

    def call(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.n:
                assert "error" not in answer, answer
                return answer["result"]

    def size(self, width, height, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def ask(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def key(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode={"ArrowRight": 39, "ArrowLeft": 37, "Tab": 9, "Enter": 13}[key])

    def picture(self):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
