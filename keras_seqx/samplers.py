"""How the next token is chosen: samplers, searches, and the processors of logits before them."""

from keras_seqx.decoding.beam_search import BeamSearch as BeamSearch
from keras_seqx.decoding.constraints import ForcedTokens as ForcedTokens
from keras_seqx.decoding.constraints import MinLength as MinLength
from keras_seqx.decoding.constraints import NoRepeatNGram as NoRepeatNGram
from keras_seqx.decoding.constraints import PrefixConstrained as PrefixConstrained
from keras_seqx.decoding.constraints import SuppressTokens as SuppressTokens
from keras_seqx.decoding.processors import MinP as MinP
from keras_seqx.decoding.processors import Processor as Processor
from keras_seqx.decoding.processors import RepetitionPenalty as RepetitionPenalty
from keras_seqx.decoding.processors import Temperature as Temperature
from keras_seqx.decoding.processors import TopK as TopK
from keras_seqx.decoding.processors import TopP as TopP
from keras_seqx.decoding.samplers import Categorical as Categorical
from keras_seqx.decoding.samplers import Gaussian as Gaussian
from keras_seqx.decoding.samplers import Greedy as Greedy
from keras_seqx.decoding.samplers import Identity as Identity
from keras_seqx.decoding.samplers import Sampler as Sampler
from keras_seqx.decoding.search import Sampling as Sampling
from keras_seqx.decoding.stopping import StopCondition as StopCondition
from keras_seqx.decoding.stopping import StopThreshold as StopThreshold
