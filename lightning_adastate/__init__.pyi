"""The public names, by the room they live in: what type checkers see, and what is imported when first used."""

from .analysis.attention import probe_attention as probe_attention
from .analysis.layout import lay_out as lay_out
from .analysis.replay import run_replay as run_replay
from .anchors import (
    AdaptiveAnchor as AdaptiveAnchor,
)
from .anchors import (
    Anchor as Anchor,
)
from .anchors import (
    ComposedAnchor as ComposedAnchor,
)
from .anchors import (
    CompressedAnchor as CompressedAnchor,
)
from .anchors import (
    EMAAnchor as EMAAnchor,
)
from .anchors import (
    PooledEMAAnchor as PooledEMAAnchor,
)
from .anchors import (
    ReplacementAnchor as ReplacementAnchor,
)
from .anchors import (
    SelectedAnchor as SelectedAnchor,
)
from .anchors import (
    StaticAnchor as StaticAnchor,
)
from .anchors import (
    TriangularAnchor as TriangularAnchor,
)
from .backbones import (
    Backbone as Backbone,
)
from .backbones import (
    LoRABackbone as LoRABackbone,
)
from .backbones import (
    WanTransformer as WanTransformer,
)
from .caches import (
    Cache as Cache,
)
from .caches import (
    RelativisticCache as RelativisticCache,
)
from .caches import (
    SlidingCache as SlidingCache,
)
from .callbacks import (
    ExactResume as ExactResume,
)
from .callbacks import (
    GracefulStop as GracefulStop,
)
from .callbacks import (
    HorizonRamp as HorizonRamp,
)
from .callbacks import (
    LossWeightingCallback as LossWeightingCallback,
)
from .callbacks import (
    MetricsResume as MetricsResume,
)
from .callbacks import (
    RewardWeighting as RewardWeighting,
)
from .callbacks import (
    StreamMetrics as StreamMetrics,
)
from .callbacks import (
    VideoPredictionWriter as VideoPredictionWriter,
)
from .codecs import (
    Codec as Codec,
)
from .codecs import (
    PixelShuffleCodec as PixelShuffleCodec,
)
from .codecs import (
    PreviewCodec as PreviewCodec,
)
from .codecs import (
    TinyCodec as TinyCodec,
)
from .codecs import (
    WanCodec as WanCodec,
)
from .data import (
    PanWorldData as PanWorldData,
)
from .data import (
    PromptFileData as PromptFileData,
)
from .data import (
    TrajectoryData as TrajectoryData,
)
from .data import (
    VideoFolderData as VideoFolderData,
)
from .data import (
    read_prompts as read_prompts,
)
from .evaluation.arms import Variation as Variation
from .evaluation.comparison import compare as compare
from .evaluation.videos import evaluate as evaluate
from .generation.generate import generate as generate
from .generation.options import Generation as Generation
from .generation.timeline import Change as Change
from .generation.trainer import StreamTrainer as StreamTrainer
from .generation.trajectories import make_trajectories as make_trajectories
from .generation.trajectory_plan import Making as Making
from .losses import (
    CriticLoss as CriticLoss,
)
from .losses import (
    DMDLoss as DMDLoss,
)
from .losses import (
    FrameWeighting as FrameWeighting,
)
from .losses import (
    GeneratorLoss as GeneratorLoss,
)
from .losses import (
    HorizonWeighting as HorizonWeighting,
)
from .losses import (
    MotionDMDLoss as MotionDMDLoss,
)
from .losses import (
    SiDLoss as SiDLoss,
)
from .losses import (
    UniformWeighting as UniformWeighting,
)
from .media.reading import (
    read_video as read_video,
)
from .media.video import (
    VideoWriter as VideoWriter,
)
from .memory import (
    Shape as Shape,
)
from .memory import (
    plan as plan,
)
from .metrics import (
    PanMetrics as PanMetrics,
)
from .metrics import (
    VideoMetrics as VideoMetrics,
)
from .noise import (
    CounterNoise as CounterNoise,
)
from .noise import (
    NoiseSource as NoiseSource,
)
from .recipes.comparison import load_comparison as load_comparison
from .recipes.loading import load_module as load_module
from .recipes.mechanism import load_mechanism as load_mechanism
from .recipes.recipe import (
    Recipe as Recipe,
)
from .recipes.recipe import (
    load_recipe as load_recipe,
)
from .recipes.replay import load_streamer as load_streamer
from .recipes.trajectories import load_trajectories as load_trajectories
from .rewards import (
    FunctionReward as FunctionReward,
)
from .rewards import (
    Reward as Reward,
)
from .rollouts import (
    ContinuedRollouts as ContinuedRollouts,
)
from .rollouts import (
    FreshRollouts as FreshRollouts,
)
from .rollouts import (
    JointRollouts as JointRollouts,
)
from .rollouts import (
    LongRollouts as LongRollouts,
)
from .rollouts import (
    NoisedData as NoisedData,
)
from .rollouts import (
    Rollouts as Rollouts,
)
from .schedules import (
    DiagonalSchedule as DiagonalSchedule,
)
from .schedules import (
    FewStepSchedule as FewStepSchedule,
)
from .schedules import (
    RollingSchedule as RollingSchedule,
)
from .schedules import (
    Schedule as Schedule,
)
from .schedules.base import Pass as Pass
from .streaming import (
    Streamer as Streamer,
)
from .streaming import (
    StreamPipeline as StreamPipeline,
)
from .streaming import (
    VideoChunk as VideoChunk,
)
from .streaming import (
    load_stream_state as load_stream_state,
)
from .streaming import (
    save_stream_state as save_stream_state,
)
from .streaming.observer import StepObserver as StepObserver
from .studies.loading import load_study as load_study
from .studies.study import Study as Study
from .text import (
    CachedEncoder as CachedEncoder,
)
from .text import (
    TextEncoder as TextEncoder,
)
from .text import (
    UMT5Encoder as UMT5Encoder,
)
from .text import (
    VocabularyEncoder as VocabularyEncoder,
)
from .training import (
    CausalFlowMatching as CausalFlowMatching,
)
from .training import (
    ConsistencyDistillation as ConsistencyDistillation,
)
from .training import (
    FlowMatching as FlowMatching,
)
from .training import (
    ODERegression as ODERegression,
)
from .training import (
    SelfForcing as SelfForcing,
)
from .training import (
    StreamModule as StreamModule,
)
from .training import (
    WarmupDecay as WarmupDecay,
)
from .training.resuming import newest_checkpoint as newest_checkpoint
from .types import (
    KV as KV,
)
from .types import (
    Chunk as Chunk,
)
from .types import (
    Committed as Committed,
)
from .types import (
    Contents as Contents,
)
from .types import (
    Event as Event,
)
from .types import (
    LivePositions as LivePositions,
)
from .types import (
    LossOutput as LossOutput,
)
from .types import (
    Positions as Positions,
)
from .types import (
    StreamState as StreamState,
)
from .types import (
    WindowFrames as WindowFrames,
)
from .weights import (
    convert as convert,
)
from .weights import (
    load_into as load_into,
)
from .weights import (
    load_weights as load_weights,
)
from .worlds import PanWorld as PanWorld

__version__: str
