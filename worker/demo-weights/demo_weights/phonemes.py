"""Speech with known phoneme times: espeak-ng through its library, and flite through its command."""

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

RATE = 16000
# Voices that training never hears, for tests.
HELD_OUT = ("en-us+f5", "de+m7", "fr+klatt3", "flite:kal16")
LANGUAGES = ("en-us", "en-gb", "en-gb-scotland", "en-029", "de", "fr", "es", "it", "pt-br", "nl", "sv", "pl", "ru",
             "tr", "el", "fi", "hu", "ro", "cs", "id", "sw", "hi")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m8", "f1", "f2", "f3", "f4", "klatt", "klatt2", "klatt4", "Alex",
            "Andrea", "Andy", "Annie", "Denis", "Diogo", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Storm",
            "adam", "anika", "antonio", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "gustave",
            "iven", "john", "linda", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "pedro",
            "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor", "zac", "grandma", "grandpa")
FLITE = ("awb", "rms", "slt", "kal")
WORDS = """the a and but so then we you they she he it this that people morning river window table answer question
music paper yellow summer winter bread butter mother father brother sister open closed under over before after
moving making baking papers bubble problem family fever village water weather better very much many happy people
go home slowly low moon blue food shoe few beauty you new two school move room boat bought both follow yellow
see these green machine street team needle meeting feel keep deep even people believe three me
father car large heart calm palm what not hot watch box stop cat hat man plan back happy map lamp
bird word work first nurse early world house out about down town boy join voice time light my fly why
speak listen remember number hammer maybe public member company important example simple complete important
garden forest mountain harbour picture camera letter number seven eleven twelve hundred thousand million""".split()

# How far the mouth opens with a phoneme beside its loudness, and its shape: spread (+1) or rounded (-1).
CLOSED, TEETH_ON_LIP = (0.0, 0.0), (0.3, 0.2)
SPREAD_VOWELS, ROUND_SOUNDS = "iIeEyj", "uUoOwWQ"


def viseme(name):
    """Returns opening factor and spread of a phoneme in espeak-ng's or flite's notation."""
    letters = name.strip("',_:;-~|*!%=^\"1234567890")
    if not letters or letters in ("pau", "sil", "ssil"):
        return 0.0, 0.0
    if letters[0] in "mbp" or letters in ("em",):
        return CLOSED
    if letters[0] in "fvBM" and letters not in ("vl",):
        return TEETH_ON_LIP
    if letters in ("ow", "ao", "uw", "uh", "oy", "w", "aw") or letters[0] in ROUND_SOUNDS:
        return 0.85, -1.0
    if letters in ("sh", "zh", "ch", "jh", "S", "Z", "tS", "dZ"):
        return 0.6, -0.5
    if letters in ("iy", "ih", "ey", "eh", "y") or letters[0] in SPREAD_VOWELS:
        return 0.85, 1.0
    if letters[0] in "aA@V3&0" or letters in ("aa", "ae", "ah", "ay", "ax", "er", "hh"):
        return 1.0, 0.1
    return 0.65, 0.2


class Event(ctypes.Structure):
    """espeak-ng's `espeak_EVENT`."""

    _fields_ = [("type", ctypes.c_int), ("unique", ctypes.c_uint), ("text", ctypes.c_int), ("length", ctypes.c_int),
                ("audio_ms", ctypes.c_int), ("sample", ctypes.c_int), ("user", ctypes.c_void_p),
                ("id", ctypes.c_char * 8)]


class Espeak:
    """espeak-ng's library: text in, samples and phonemes with their times out."""

    PHONEME, SYNCHRONOUS, EVENTS, UTF8 = 7, 2, 1, 1

    def __init__(self):
        self.library = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.library.espeak_Initialize(self.SYNCHRONOUS, 200, None, self.EVENTS)
        self.kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
        self.callback = self.kind(self.collect)
        self.library.espeak_SetSynthCallback(self.callback)

    def collect(self, samples, count, events):
        if samples and count:
            self.samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            if events[index].type == self.PHONEME:
                self.events.append((events[index].audio_ms / 1000, events[index].id.decode("utf-8", "replace")))
            index += 1
        return 0

    def speak(self, text, voice, speed=165, pitch=50, span=50):
        """Returns samples at RATE, and phonemes as (start in seconds, name)."""
        self.samples, self.events = [], []
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            return np.zeros(0, np.float32), []
        for parameter, value in ((1, speed), (3, pitch), (4, span)):
            self.library.espeak_SetParameter(parameter, int(value), 0)
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, self.UTF8, None, None)
        self.library.espeak_Synchronize()
        samples = np.concatenate(self.samples or [np.zeros(1, np.int16)]).astype(np.float32) / 32768
        return resample_poly(samples, RATE, self.rate).astype(np.float32), self.events


def flite(text, voice, stretch=1.0, pitch=None):
    """Returns samples at RATE and phonemes of a flite voice."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["flite", "-voice", voice, "-psdur", "--setf", f"duration_stretch={stretch}"]
        if pitch:
            command += ["--setf", f"int_f0_target_mean={pitch}"]
        printed = subprocess.run([*command, "-t", text, "-o", file.name], check=True, capture_output=True, text=True)
        rate, samples = wavfile.read(Path(file.name))
    events, start = [], 0.0
    for word in printed.stdout.split():
        name, _, end = word.rpartition(":")
        try:
            events.append((start, name))
            start = float(end)
        except ValueError:
            events.pop()
    samples = samples.astype(np.float32) / 32768
    return resample_poly(samples, RATE, rate).astype(np.float32), events


def sentence(random):
    words = list(random.choice(WORDS, random.integers(3, 14)))
    if random.random() < 0.3:
        words.insert(len(words) // 2, str(random.integers(1, 2000)))
    return " ".join(words) + random.choice([".", ".", "?", "!"])
