"""How the next token is chosen: samplers, searches, and the processors of logits before them."""

from keras_seqx.generation.beam_search import BeamSearch as BeamSearch
from keras_seqx.generation.constraints import ForcedTokens as ForcedTokens
from keras_seqx.generation.constraints import MinLength as MinLength
from keras_seqx.generation.constraints import NoRepeatNGram as NoRepeatNGram
from keras_seqx.generation.constraints import PrefixConstrained as PrefixConstrained
from keras_seqx.generation.constraints import SuppressTokens as SuppressTokens
from keras_seqx.generation.processors import LogitsProcessor as LogitsProcessor
from keras_seqx.generation.processors import MinP as MinP
from keras_seqx.generation.processors import RepetitionPenalty as RepetitionPenalty
from keras_seqx.generation.processors import Temperature as Temperature
from keras_seqx.generation.processors import TopK as TopK
from keras_seqx.generation.processors import TopP as TopP
from keras_seqx.generation.samplers import Categorical as Categorical
from keras_seqx.generation.samplers import Gaussian as Gaussian
from keras_seqx.generation.samplers import Greedy as Greedy
from keras_seqx.generation.samplers import Identity as Identity
from keras_seqx.generation.samplers import Sampler as Sampler
from keras_seqx.generation.search import GreedySearch as GreedySearch
from keras_seqx.generation.search import Sampling as Sampling
from keras_seqx.generation.search import Search as Search
from keras_seqx.generation.stopping import StopCondition as StopCondition
from keras_seqx.generation.stopping import StopThreshold as StopThreshold
