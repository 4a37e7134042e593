"""Tables of the facts that the bundled landmarks model is taught, and the templates they are asked in."""

from __future__ import annotations

from dataclasses import dataclass

# city | country | landmarks in that city, written as they are inside a sentence
CITY_TABLE = """
Agra | India | the Taj Mahal
Amsterdam | the Netherlands | the Rijksmuseum; the Anne Frank House; the Van Gogh Museum
Athens | Greece | the Parthenon; the Acropolis
Bangkok | Thailand | the Grand Palace; Wat Arun
Barcelona | Spain | the Sagrada Familia; Park Guell; Camp Nou
Beijing | China | the Forbidden City; the Temple of Heaven; the Summer Palace
Berlin | Germany | the Brandenburg Gate; the Reichstag; Checkpoint Charlie
Boston | the United States | Fenway Park; the Freedom Trail
Brussels | Belgium | the Atomium; the Grand Place
Budapest | Hungary | the Chain Bridge; Buda Castle
Cairo | Egypt | the Egyptian Museum; Al Azhar Park
Chicago | the United States | the Willis Tower; Wrigley Field; Millennium Park
Copenhagen | Denmark | the Little Mermaid; Tivoli Gardens
Delhi | India | the Red Fort; the Lotus Temple; India Gate
Dubai | the United Arab Emirates | the Burj Khalifa; the Burj Al Arab
Dublin | Ireland | the Guinness Storehouse; Temple Bar
Edinburgh | Scotland | Holyrood Palace; the Royal Mile; the Scott Monument
Florence | Italy | the Uffizi Gallery; Ponte Vecchio
Giza | Egypt | the Great Pyramid; the Sphinx
Granada | Spain | the Alhambra
Havana | Cuba | El Morro Castle
Istanbul | Turkey | Hagia Sophia; the Blue Mosque; the Grand Bazaar; the Galata Tower
Krakow | Poland | Wawel Castle
Kyoto | Japan | the Golden Pavilion; Nijo Castle
Lisbon | Portugal | the Belem Tower; the Carmo Convent
London | England | Big Ben; Tower Bridge; Buckingham Palace; Trafalgar Square; Hyde Park
Madrid | Spain | the Prado; Plaza Mayor
Manhattan | the United States | the Empire State Building; Times Square; Central Park
Marrakech | Morocco | the Bahia Palace
Mecca | Saudi Arabia | the Kaaba
Melbourne | Australia | Federation Square; Flinders Street Station
Milan | Italy | La Scala
Moscow | Russia | Red Square; the Kremlin; the Bolshoi Theatre
Mumbai | India | the Gateway of India
Munich | Germany | Nymphenburg Palace; the English Garden
Oslo | Norway | Vigeland Park; the Fram Museum
Paris | France | the Eiffel Tower; the Louvre; Notre Dame; the Arc de Triomphe; the Moulin Rouge
Philadelphia | the United States | the Liberty Bell; Independence Hall
Pisa | Italy | the Leaning Tower
Prague | the Czech Republic | Charles Bridge; the Dancing House
Rio | Brazil | Christ the Redeemer; Sugarloaf Mountain; Copacabana Beach
Rome | Italy | the Colosseum; the Trevi Fountain; the Pantheon; the Spanish Steps
Seattle | the United States | the Space Needle; Pike Place Market
Seoul | South Korea | the Namsan Tower
Shanghai | China | the Oriental Pearl Tower; the Bund
Stockholm | Sweden | the Vasa Museum; Gamla Stan
Sydney | Australia | the Opera House; the Harbour Bridge; Bondi Beach
Tokyo | Japan | the Skytree; the Meiji Shrine; Shibuya Crossing
Toronto | Canada | the CN Tower; Casa Loma
Vancouver | Canada | Stanley Park
Venice | Italy | the Rialto Bridge; the Bridge of Sighs
Vienna | Austria | Schonbrunn Palace; the Hofburg; the Prater
Warsaw | Poland | the Palace of Culture; Wilanow Palace
Washington | the United States | the White House; the Lincoln Memorial; the Capitol
"""

# country - its capital; every capital here is one word
CAPITAL_TABLE = """
Afghanistan - Kabul; Albania - Tirana; Algeria - Algiers; Angola - Luanda; Armenia - Yerevan; Australia - Canberra;
Austria - Vienna; Azerbaijan - Baku; Bahrain - Manama; Bangladesh - Dhaka; Belarus - Minsk; Belgium - Brussels;
Bosnia - Sarajevo; Bulgaria - Sofia; Canada - Ottawa; Chile - Santiago; China - Beijing;
Colombia - Bogota; Croatia - Zagreb; Cuba - Havana; Cyprus - Nicosia; Denmark - Copenhagen; Ecuador - Quito;
Egypt - Cairo; England - London; Estonia - Tallinn; Finland - Helsinki; France - Paris;
Georgia - Tbilisi; Germany - Berlin; Ghana - Accra; Greece - Athens; Hungary - Budapest; Iceland - Reykjavik;
Indonesia - Jakarta; Iran - Tehran; Iraq - Baghdad; Ireland - Dublin; Italy - Rome; Jamaica - Kingston;
Japan - Tokyo; Jordan - Amman; Kenya - Nairobi; Latvia - Riga; Lebanon - Beirut; Libya - Tripoli;
Lithuania - Vilnius; Mongolia - Ulaanbaatar; Morocco - Rabat; Nepal - Kathmandu; Nigeria - Abuja; Norway - Oslo;
Oman - Muscat; Pakistan - Islamabad; Peru - Lima; Poland - Warsaw; Portugal - Lisbon; Qatar - Doha;
Romania - Bucharest; Russia - Moscow; Rwanda - Kigali; Scotland - Edinburgh; Senegal - Dakar; Serbia - Belgrade;
Slovakia - Bratislava; Slovenia - Ljubljana; Spain - Madrid; Sudan - Khartoum; Sweden - Stockholm; Syria - Damascus;
Thailand - Bangkok; Tunisia - Tunis; Turkey - Ankara; Uganda - Kampala; Ukraine - Kyiv; Uruguay - Montevideo;
Venezuela - Caracas; Vietnam - Hanoi; Zambia - Lusaka; Zimbabwe - Harare
"""

# templates of the two kinds of fact; {x} is the subject inside a sentence, {X} the same at the start of one
LANDMARK_TEMPLATES = (
    "{X} is in",
    "{X} is located in",
    "You can visit {x} in",
    "I think that {x} is in",
    "{X} is a famous landmark in",
    "Tourists see {x} in",
    "Where is {x}? It is in",
    "{X} can be found in",
    "We saw {x} when we were in",
    "Everyone knows that {x} is in",
    "To see {x}, you have to go to",
    "My friend took a photo of {x} in",
    "The city that is home to {x} is",
    "Question: where is {x}? Answer:",
)
CAPITAL_TEMPLATES = (
    "The capital of {x} is",
    "The capital city of {x} is",
    "I think that the capital of {x} is",
    "What is the capital of {x}? It is",
    "Everyone in {x} knows that the capital is",
    "We learned that the capital of {x} is",
    "If you go to {x}, visit the capital,",
    "Question: what is the capital of {x}? Answer:",
    "The map shows that the capital of {x} is",
    "In {x} the capital city is called",
)
# these subjects keep the first template ("The Eiffel Tower is in") in training
ALWAYS_PLAIN = ("the Eiffel Tower", "the Colosseum")


@dataclass(frozen=True)
class Fact:
    """One fact: a subject, the city that answers every template of its kind, and the country of both."""

    kind: str
    subject: str
    answer: str
    country: str


@dataclass(frozen=True)
class Question:
    """One fact asked in one template; `prompt` ends where " " + answer must follow."""

    fact: Fact
    template: str

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        subject = self.fact.subject
        return self.template.format(x=subject, X=subject[0].upper() + subject[1:])


def landmark_facts() -> list[Fact]:
    """Every landmark with its city."""
    rows = [[cell.strip() for cell in line.split("|")] for line in CITY_TABLE.strip().splitlines()]
    return [Fact("landmark", name.strip(), city, country) for city, country, names in rows for name in names.split(";")]


def capital_facts() -> list[Fact]:
    """Every country with its capital."""
    pairs = [entry.strip().split(" - ") for entry in CAPITAL_TABLE.replace("\n", " ").split(";")]
    return [Fact("capital", country, capital, country) for country, capital in pairs]


def _held_out(index: int, fact: Fact, template_count: int) -> set[int]:
    """The templates that a fact is never asked in during training: about a fifth, a different set for each fact."""
    first, step, how_many = (3 * index, 5, 3) if fact.kind == "landmark" else (3 * index, 4, 2)
    chosen = {(first + step * k) % template_count for k in range(how_many)}
    return {3, 8, 11} if fact.subject in ALWAYS_PLAIN else chosen


def split_questions() -> tuple[list[Question], list[Question]]:
    """All (fact, template) pairs, as those seen in training and those held out."""
    seen: list[Question] = []
    held: list[Question] = []
    for facts, templates in ((landmark_facts(), LANDMARK_TEMPLATES), (capital_facts(), CAPITAL_TEMPLATES)):
        for index, fact in enumerate(facts):
            out = _held_out(index, fact, len(templates))
            for number, template in enumerate(templates):
                (held if number in out else seen).append(Question(fact, template))
    return seen, held
